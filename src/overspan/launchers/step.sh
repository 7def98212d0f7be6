# One process as a step on its node; its words are this text's arguments. $0 is "secrets" where standard input has some.
#
# Python's resource tracker alone unlinks the shared memory of killed processes. Slurm kills all that is left of a step
# at once when its task ends, the tracker too, and then files stay in /dev/shm. So the task is this shell: it outlives
# the process, kills the rest of the family, lets trackers end by themselves, and ends with the process's code. It can do
# nothing where this shell is killed itself: scancel --signal=KILL, or a KillWait of Slurm below two seconds.
[ "$0" != secrets ] || { set -a; eval "$(cat)"; set +a; }
exec 2>&1 </dev/null
trap : TERM
sleep 2147483647 >/dev/null 2>&1 & # it lives until TERM comes: bash loses one of two traps whose signals come together
no_term=$!
# Slurm sends CONT and TERM, and KILL after its KillWait. A drain is TERM alone and may take longer; a resume, CONT alone.
trap '(trap "" TERM; sleep "${OVERSPAN_PATIENCE_S:-20}"; kill -0 $no_term || kill -KILL $child) 2>/dev/null &' CONT
"$@" &
child=$!

look() { # the family: what this shell and slurmstepd have under them, and what is in this shell's process group
  others='' trackers='' rows='' grown=1 known=" $$ "
  { read -r each <"/proc/$PPID/comm"; } 2>/dev/null && [ "$each" = slurmstepd ] && known=" $$ $PPID "
  for each in /proc/[0-9]*/stat; do
    { read -r line <"$each"; } 2>/dev/null || continue
    set -- ${line##*) } # state, parent, group: proc_pid_stat(5)
    each=${each#/proc/}
    case $1 in Z | X) ;; *) rows="$rows ${each%/stat}:$2:$3" ;; esac
  done
  while [ -n "$grown" ]; do
    grown=''
    for each in $rows; do
      pid=${each%%:*} parent=${each#*:}
      case $known in *" $pid "*) continue ;; esac
      case $known in *" ${parent%:*} "*) ;; *) [ "${parent#*:}" = $$ ] || continue ;; esac
      known="$known$pid " grown=1
      if grep -q 'from multiprocessing.resource_tracker import main' "/proc/$pid/cmdline" 2>/dev/null
      then trackers="$trackers $pid"; else others="$others $pid"; fi
    done
  done
}

while :; do # a signal ends `wait` too, with a code of its own
  wait $child
  code=$?
  kill -0 $child 2>/dev/null || break
done
wait $child 2>/dev/null # bash has the process's code still; others had told it
now=$?
[ $now = 127 ] || code=$now

rounds=0 patience=0
while look; [ -n "$others$trackers" ] && [ $rounds -lt 200 ]; do
  rounds=$((rounds + 1)) patience=$((patience + 1))
  if [ -n "$others" ]; then
    patience=0
    kill -KILL $others 2>/dev/null
  elif [ $patience -gt 40 ]; then # it should have ended within milliseconds
    kill -KILL $trackers 2>/dev/null
  fi
  sleep 0.05
done
exit $code
