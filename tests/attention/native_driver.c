/* One call of native.c, read from standard input and answered on standard output: for another processor.
 *
 * First the number of the function (0 forward, 1 backward), then the Call as it is in memory, in which every
 * address is a number of bytes that follow, in the order of the Call. All of them come back.
 */
#include "native.c"

#include <stdio.h>

enum { MOST = 12 };

int main(void) {
    int64_t backward;
    Call call;
    if (fread(&backward, sizeof backward, 1, stdin) != 1 || fread(&call, sizeof call, 1, stdin) != 1) return 2;
    void **places[MOST] = {
        &call.query.data, &call.key.data, &call.value.data, &call.bias.data, &call.out.data,
        &call.grad_out.data, &call.grad_query.data, &call.grad_key.data, &call.grad_value.data,
        (void **)&call.allowed.data, (void **)&call.inverse_sum, (void **)&call.grad_by_distance,
    };
    size_t sizes[MOST];
    for (int i = 0; i < MOST; i++) {
        sizes[i] = (size_t)*places[i];
        *places[i] = sizes[i] ? malloc(sizes[i]) : NULL;
        if (sizes[i] && fread(*places[i], 1, sizes[i], stdin) != sizes[i]) return 3;
    }
    if (backward ? attention_backward(&call) : attention_forward(&call)) return 4;
    for (int i = 0; i < MOST; i++)
        if (sizes[i] && fwrite(*places[i], 1, sizes[i], stdout) != sizes[i]) return 5;
    return 0;
}
