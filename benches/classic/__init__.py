"""The programs of a course in reinforcement learning, as a reader would type them: Gymnasium, NumPy, Torch.

They are what readers compare with: nothing here is fastrl's, and nothing is made fast. Each file runs by itself,

    python -m benches.classic.dqn

and has `train(env_id, seed, steps, watch)`, where `watch` is shown the agent after each of its iterations and ends the
training by returning False.
"""
