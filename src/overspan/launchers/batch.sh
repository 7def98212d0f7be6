#!/bin/bash
# The job of one run of Overspan. Its only argument is the run's folder. Nothing of a plan stands in this text: a step's
# arguments are read from steps/NAME, one after the other with a NUL byte behind each, and stay arguments.
cd "$1" || exit 1
folder=$1
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
mapfile -t hosts <hosts

# The hosts of the plan are the nodes of the job: those of the same names, or in order where the names are others.
declare -A node address is_node
for each in "${nodes[@]}"; do is_node[$each]=1; done
same=1
for host in "${hosts[@]}"; do [ -n "${is_node[$host]}" ] || same=; done
for i in "${!hosts[@]}"; do node[${hosts[i]}]=${nodes[i]}; done
for host in "${hosts[@]}"; do [ -z "$same" ] || node[$host]=$host; done
for host in "${hosts[@]}"; do
  address[$host]=$(getent ahostsv4 "${node[$host]}" | while read -r ip _; do echo "$ip"; break; done)
  if [ -z "${address[$host]}" ]; then
    echo "overspan: node ${node[$host]} has no address: getent ahostsv4 ${node[$host]}" >&2
    exit 1
  fi
  printf '%s|%s|%s\n' "$host" "${node[$host]}" "${address[$host]}"
done >nodes.partial && mv nodes.partial nodes

# What each step ends by itself before Slurm's KillWait is over: see step.sh.
guard=$(<step.sh)
while read -r word _ value _; do [ "$word" != KillWait ] || kill_wait=$value; done < <(scontrol show config)
[[ $kill_wait =~ ^[0-9]+$ ]] && export OVERSPAN_PATIENCE_S=$((kill_wait * 2 / 3))

run_step() { # steps/NAME or stage/NAME
  local word argv=()
  while IFS= read -r -d '' word; do
    [ "$word" != "{step.sh}" ] || { argv+=("$guard"); continue; }
    word=${word//"{folder}"/"$folder"}
    for host in "${hosts[@]}"; do
      word=${word//"{node:$host}"/"${node[$host]}"}
      word=${word//"{address:$host}"/"${address[$host]}"}
    done
    argv+=("$word")
  done <"$1"
  local secrets=secrets/${1##*/}
  if [ -e "$secrets" ]; then exec <"$secrets"; rm -f "$secrets"; else exec </dev/null; fi
  "${argv[@]}" >"logs/${1##*/}.log" 2>&1
}

tell_end() { # code name
  # Without another program: where Slurm ends the job, it ends that one first. Bash 4 has whole seconds alone.
  local at=${EPOCHREALTIME/,/.}
  [ -n "$at" ] || printf -v at '%(%s)T' -1
  printf '%s %s %s\n' "$at" "$1" "$2" >>ended
}

if [ -d stage ]; then # weights to the nodes' own disks, all at once
  for path in stage/*; do (run_step "$path" || { tell_end $? "${path#stage/}"; exit 1; }) & done
  for path in stage/*; do wait -n || exit 1; done
fi
for path in steps/*; do (run_step "$path"; tell_end $? "${path#steps/}") & done
wait -n
while [ -e ending ] && [ -n "$(jobs -pr)" ]; do wait -n; done
# The first to end ends the job, and Slurm ends the steps that are left.
exit 0
