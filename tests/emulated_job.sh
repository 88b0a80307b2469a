# Runs inside of tests/emulated.sh: the kernels against their specification on AVX-512, then training runs on each instruction
# set, in f32 and in integers. The last lines say which instructions multiplied them.
grep -q avx512f /proc/cpuinfo || { echo "no AVX-512 here"; exit 1; }
export SYMLM_TEST_ISAS=avx512
for name in known_answers numerics elementwise training adapter gemm attention int16 q8; do
  ./$name-* --test-threads=1 || exit 1
done
unset SYMLM_TEST_ISAS
sed 's/"seed"/"precision": "int16", "seed"/' small.json > /tmp/int16.json
# The loss of the last update is that of all the weights after the updates before.
loss() {
  echo 5 | SYMLM_ISA=$1 SYMLM_INT16=$2 ./step_times "$3" > /tmp/times || exit 1
  cut -d ' ' -f 2 /tmp/times > /tmp/loss
  grep -q '^[0-9.]*$' /tmp/loss || exit 1
  [ -f "/tmp/first-$4" ] || cp /tmp/loss "/tmp/first-$4"
  echo "$4 on $1 ${2:+with products of integers by $2}: loss of the fifth update $(cat /tmp/loss)"
  cmp /tmp/loss "/tmp/first-$4" || exit 1
}
for isa in avx512 avx2 portable; do
  loss $isa "" small.json f32
done
for pair in avx512:avx512-vnni avx512:avx512-bw avx2:avx-vnni avx2:avx2 portable:portable; do
  # What the processor does not have is refused by name.
  if SYMLM_ISA=${pair%:*} SYMLM_INT16=${pair#*:} ./step_times /tmp/int16.json 2>&1 < /dev/null | grep -q "SYMLM_INT16 is"; then
    echo "${pair#*:}: not on this processor"
  else
    loss "${pair%:*}" "${pair#*:}" /tmp/int16.json int16
  fi
done
if cmp -s /tmp/first-f32 /tmp/first-int16; then echo "int16 computed in f32"; exit 1; fi
