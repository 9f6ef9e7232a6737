/* GAE over time-major float arrays that do not overlap; done[t] says that step t ended its episode. */
void gae(const float *restrict reward, const float *restrict value, const float *restrict last_value,
         const float *restrict done, float gamma, float trace, float *restrict advantage, float *restrict returns,
         long T, long N) {
    for (long t = T - 1; t >= 0; t--) {
        const float *next_value = t == T - 1 ? last_value : value + (t + 1) * N;
        const float *next = advantage + (t + 1) * N;
        for (long j = 0; j < N; j++) {
            long i = t * N + j;
            float going_on = 1 - done[i];
            float following = t == T - 1 ? 0 : next[j];
            float a = reward[i] - value[i] + going_on * (gamma * next_value[j] + trace * following);
            advantage[i] = a;
            returns[i] = a + value[i];
        }
    }
}
