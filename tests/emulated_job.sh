# Runs inside of tests/emulated.sh: the kernels against their specification on AVX-512, then a training run on each instruction set.
grep -q avx512f /proc/cpuinfo || { echo "no AVX-512 here"; exit 1; }
export SYMLM_TEST_ISAS=avx512
for name in known_answers numerics elementwise training adapter gemm attention; do
  ./$name-* --test-threads=1 || exit 1
done
unset SYMLM_TEST_ISAS
for isa in avx512 avx2 portable; do
  # The loss of the last update is that of all the weights after the updates before.
  echo 5 | SYMLM_ISA=$isa ./step_times small.json > /tmp/times || exit 1
  cut -d ' ' -f 2 /tmp/times > /tmp/loss-$isa
  echo "$isa: loss of the fifth update $(cat /tmp/loss-$isa)"
  grep -q '^[0-9.]*$' /tmp/loss-$isa && cmp /tmp/loss-$isa /tmp/loss-avx512 || exit 1
done
