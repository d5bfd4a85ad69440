/* Preloaded, tells MKL's vector math at each call what a thread is told that loses the race for the first one
 * (docs/determinism.md): 9, the number of AVX-512 before it is translated, which is then taken for the least accurate kernels
 * of AVX2. */
int mkl_vml_serv_cpu_detect(void) { return 9; }
