# SPDX-License-Identifier: GPL-2.0-or-later
# Bash completion for volfs(1).

# Where volfs is mounted, one a line.
_volfs_mounts() {
  findmnt --noheadings --list --output TARGET --types fuse.volfs,volfs 2>/dev/null
}

_volfs_options() {
  local words="ro rw allow_other allow_root hidden force writeback_cache direct_io debug
    threads= max_background= uid= gid= mode= noauto nofail"
  local before=
  [[ $cur != *,* ]] || before=${cur%,*},
  mapfile -t COMPREPLY < <(compgen -P "$before" -W "$words" -- "${cur##*,}")
  compopt -o nospace
}

# Files that end as given, and folders on the way to them.
_volfs_files() {
  local pattern=$1
  compopt -o filenames
  mapfile -t COMPREPLY < <(compgen -f -X "!$pattern" -- "$cur"; compgen -d -- "$cur")
}

_volfs() {
  local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words=
  COMPREPLY=()
  if [ "$COMP_CWORD" = 1 ]; then
    words="mount umount create check scan status tree where map lv array snapshot --help --version"
  elif [[ $cur == -* ]]; then
    case $command in
      mount) words="-o -f --foreground" ;;
      umount) words="-l --lazy -f --force" ;;
      create) words="-n --dry-run --force --json" ;;
      scan) words="--yaml --force --json" ;;
      array) words="--re-add --timeout --json" ;;
      snapshot) words="--origin --cow --size --chunk-size --overflow --yes --timeout --json" ;;
      lv) words="--size --extents --name --type --stripes --stripesize --mirrors --regionsize --snapshot --chunksize --permission --addtag --alloc --yes --force --json" ;;
      map) words="--table --readonly --uuid --noflush --timeout --inactive --json" ;;
      *) words="--json" ;;
    esac
    words+=" --help"
  elif [ "$previous" = -o ]; then
    _volfs_options
    return
  elif [ "$command" = map ] && [ "$COMP_CWORD" = 2 ]; then
    words="create load clear suspend resume remove rename message table status"
  elif [ "$command" = lv ] && [ "$COMP_CWORD" = 2 ]; then
    words="create extend reduce remove rename activate deactivate"
  elif [ "$command" = array ] && [ "$COMP_CWORD" = 2 ]; then
    words="fail remove add check repair idle wait mdstat"
  elif [ "$command" = snapshot ] && [ "$COMP_CWORD" = 2 ]; then
    words="create remove merge wait status"
  elif [ "$previous" = --cow ]; then
    compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return
  else
    case $command in
      umount|status|tree) words=$(_volfs_mounts) ;;
      create|check) _volfs_files "*.@(yaml|yml)"; return ;;
      *) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _volfs volfs
