/* What libFuzzer guides itself by, from code compiled by gcc.

   gcc's -fsanitize-coverage=trace-pc calls __sanitizer_cov_trace_pc in every basic block, which
   libFuzzer no longer listens to; it reads arrays of 8-bit counters. This maps one to the other: a
   counter a block, by the address of the call. Comparisons (trace-cmp) are handed on by a jump, so
   that libFuzzer sees where they come from. Preload it before libasan, whose own functions of these
   names do nothing, and call feedcore_coverage_start once. */
#include <stddef.h>
#include <stdint.h>

#define COUNTERS 65536 /* a power of two, some times the blocks of the compiled modules */

static uint8_t counters[COUNTERS];

void __sanitizer_cov_trace_pc(void) {
  uintptr_t at = (uintptr_t)__builtin_return_address(0);
  uint8_t *counter = &counters[(at * 2654435761u >> 8) & (COUNTERS - 1)];
  if (*counter < 255) (*counter)++;
}

#define HANDED_ON(name, type)                                    \
  static void nothing_##name(type a, type b) { (void)a, (void)b; } \
  static void (*to_##name)(type, type) = nothing_##name;         \
  void __sanitizer_cov_trace_##name(type a, type b) { to_##name(a, b); }

HANDED_ON(cmp1, uint8_t)
HANDED_ON(cmp2, uint16_t)
HANDED_ON(cmp4, uint32_t)
HANDED_ON(cmp8, uint64_t)
HANDED_ON(const_cmp1, uint8_t)
HANDED_ON(const_cmp2, uint16_t)
HANDED_ON(const_cmp4, uint32_t)
HANDED_ON(const_cmp8, uint64_t)

static void nothing_switch(uint64_t value, uint64_t *cases) { (void)value, (void)cases; }
static void (*to_switch)(uint64_t, uint64_t *) = nothing_switch;
void __sanitizer_cov_trace_switch(uint64_t value, uint64_t *cases) { to_switch(value, cases); }

/* Comparisons of floating-point numbers: libFuzzer has no use for them. */
void __sanitizer_cov_trace_cmpf(float a, float b) { (void)a, (void)b; }
void __sanitizer_cov_trace_cmpd(double a, double b) { (void)a, (void)b; }

/* `find` gives libFuzzer's function of that name. */
void feedcore_coverage_start(void *(*find)(const char *)) {
  void (*init)(uint8_t *, uint8_t *) = find("__sanitizer_cov_8bit_counters_init");
  init(counters, counters + COUNTERS);
  to_cmp1 = find("__sanitizer_cov_trace_cmp1");
  to_cmp2 = find("__sanitizer_cov_trace_cmp2");
  to_cmp4 = find("__sanitizer_cov_trace_cmp4");
  to_cmp8 = find("__sanitizer_cov_trace_cmp8");
  to_const_cmp1 = find("__sanitizer_cov_trace_const_cmp1");
  to_const_cmp2 = find("__sanitizer_cov_trace_const_cmp2");
  to_const_cmp4 = find("__sanitizer_cov_trace_const_cmp4");
  to_const_cmp8 = find("__sanitizer_cov_trace_const_cmp8");
  to_switch = find("__sanitizer_cov_trace_switch");
}
