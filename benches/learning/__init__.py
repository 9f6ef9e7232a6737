"""What agents learn, how soon and how reliably: ours, Stable-Baselines3's, and the programs of a course.

python -m benches learning                     10 seeds of every default setting; writes learning.md
python -m benches learning --help              seeds, settings, libraries, processes at a time

    settings.py    what is trained: environment, hyperparameters, steps, what is promised
    libraries.py   how each library trains it
    run.py         one run in a process of its own: marks, clocks, one line of JSON
    results.py     the file of lines: appending, reading, what is missing
    command.py     the command: many runs, one after another, several at a time
    statistics.py  intervals, probability of improvement, verdicts
    page.py        the page in Markdown;  charts.py its pictures
"""

from benches.learning.evaluation import EPISODES, SOLVED, Run, Train, Watch, curve, evaluate, recent_returns

__all__ = ["EPISODES", "SOLVED", "Run", "Train", "Watch", "curve", "evaluate", "recent_returns"]
