/* For Linux on x86-64, preloaded: the processor no longer tells of AVX-512, VNNI and AMX, so that a
   library that asks it (CPUID) takes the kernels that it has for AVX2. Instructions run as fast as
   ever; only the choice is another. The processor must let the kernel trap CPUID (arch_prctl(2),
   ARCH_SET_CPUID); where it does not, the process ends with 97 instead of measuring something else. */

#define _GNU_SOURCE
#include <cpuid.h>
#include <signal.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define ARCH_SET_CPUID 0x1012

/* Bits of CPUID leaf 7 (Intel, Software Developer's Manual, volume 2, CPUID). */
#define AVX512_EBX (1u << 16 | 1u << 17 | 1u << 21 | 1u << 26 | 1u << 27 | 1u << 28 | 1u << 30 | 1u << 31)
#define AVX512_ECX (1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14)
#define AVX512_AMX_EDX (1u << 2 | 1u << 3 | 1u << 8 | 1u << 22 | 1u << 23 | 1u << 24 | 1u << 25)

static void answer(int number, siginfo_t *info, void *context) {
    greg_t *at = ((ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *code = (const unsigned char *)at[REG_RIP];
    unsigned leaf = at[REG_RAX], part = at[REG_RCX], a, b, c, d;
    (void)info;
    if (code[0] != 0x0f || code[1] != 0xa2) { /* no CPUID: a fault as any other */
        signal(number, SIG_DFL);
        return;
    }
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 1);
    __cpuid_count(leaf, part, a, b, c, d);
    syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0);
    if (leaf == 7 && part == 0) {
        b &= ~AVX512_EBX;
        c &= ~AVX512_ECX;
        d &= ~AVX512_AMX_EDX;
    } else if (leaf == 7 && part == 1) {
        a = b = c = d = 0; /* AVX-VNNI and what came after it */
    }
    at[REG_RAX] = a, at[REG_RBX] = b, at[REG_RCX] = c, at[REG_RDX] = d;
    at[REG_RIP] += 2;
}

__attribute__((constructor)) static void hide(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    if (sigaction(SIGSEGV, &action, 0) || syscall(SYS_arch_prctl, ARCH_SET_CPUID, 0)) _exit(97);
}
