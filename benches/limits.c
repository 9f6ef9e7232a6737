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

#include <stdint.h>
#include <string.h>

static uint64_t state[2] = {1234567, 987654321};

/* xoroshiro128+ */
static inline uint64_t next(void) {
    uint64_t a = state[0], b = state[1], result = a + b;
    b ^= a;
    state[0] = ((a << 24) | (a >> 40)) ^ b ^ (b << 16);
    state[1] = (b << 37) | (b >> 27);
    return result;
}

/* n of `size` records {obs, next_obs, int64 action, float reward, flags} into arrays, requested before they are read. */
void sample(const char *restrict records, long stride, long obs_bytes, long size, long n, char *restrict obs,
            char *restrict next_obs, int64_t *restrict action, float *restrict reward, char *restrict terminated,
            char *restrict truncated, int64_t *restrict index) {
    for (long k = 0; k < n; k++) {
        index[k] = ((next() >> 32) * (uint64_t)size) >> 32;
        const char *record = records + index[k] * stride;
        for (long b = 0; b < stride && b < 512; b += 64)
            __builtin_prefetch(record + b);
    }
    for (long k = 0; k < n; k++) {
        const char *record = records + index[k] * stride, *rest = record + 2 * obs_bytes;
        memcpy(obs + k * obs_bytes, record, obs_bytes);
        memcpy(next_obs + k * obs_bytes, record + obs_bytes, obs_bytes);
        memcpy(action + k, rest, 8);
        memcpy(reward + k, rest + 8, 4);
        terminated[k] = rest[12];
        truncated[k] = rest[13];
    }
}
