/* Preloaded, answers the first question of MKL's vector math for the CPU as a thread that loses the race described at
 * torch_ext::settle_vector_math is answered: 9 is AVX-512 before translation, and is then taken for the least accurate
 * kernels of AVX2. Every later question goes to MKL. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>

int mkl_vml_serv_cpu_detect(void) {
    static atomic_int asked;
    if (atomic_fetch_add(&asked, 1) == 0) return 9;
    return ((int (*)(void))dlsym(RTLD_NEXT, "mkl_vml_serv_cpu_detect"))();
}
