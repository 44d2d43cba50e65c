# SPDX-License-Identifier: GPL-2.0-or-later
# Bash completion for volfs(1).

# Where volfs is mounted, one a line.
_volfs_mounts() {
  findmnt --noheadings --list --output TARGET --types fuse.volfs,volfs 2>/dev/null
}

# The mount that a path lies in.
_volfs_mount_of() {
  local at=$1
  while [ -n "$at" ] && [ ! -e "$at/.volfs/control" ]; do
    [[ $at == */* ]] || return 1
    at=${at%/*}
  done
  [ -n "$at" ] && printf '%s\n' "$at"
}

# The files of maps, arrays, snapshots of groups, or volumes of any kind, one a line, of the mounts that the word at hand
# leads to; others are not looked at, as one whose daemon does not answer would hold up the shell.
_volfs_paths() {
  local mount name
  while read -r mount; do
    if [ -z "$cur" ]; then
      printf '%s/\n' "$mount"
      continue
    fi
    [[ $mount == "$cur"* || $cur == "$mount"/* ]] || continue
    case $1 in
      maps) cut -d: -f1 "$mount/.volfs/table" | sort -u ;;
      arrays) sed -n 's/^\([^ ]*\) : \(active\|inactive\).*/\1/p' "$mount/.volfs/mdstat" ;;
      snapshots) sed -n 's/^\([^:]*\): 0 [0-9]* snapshot .*/\1/p' "$mount/.volfs/table" | sed 's/--/\x01/g; s/-/\//; s/\x01/-/g' | grep / ;;
      volumes) find "$mount" -mindepth 1 -name .volfs -prune -o -type f -printf '%P\n' ;;
    esac 2>/dev/null | while read -r name; do [ -e "$mount/$name" ] && printf '%s/%s\n' "$mount" "$name"; done
  done < <(_volfs_mounts)
}

# The members of an array, by its path.
_volfs_members() {
  local mount
  mount=$(_volfs_mount_of "$1") || return
  sed -n "s|^${1#"$mount"/} : ||p" "$mount/.volfs/mdstat" 2>/dev/null | grep -o '[^ ]*\[[0-9]*\]' | sed 's/\[[0-9]*\]$//'
}

# The devices of the mount that a path lies in: of one kind, or all.
_volfs_devices() {
  local mount
  mount=$(_volfs_mount_of "$1") || return
  volfs status "$mount" 2>/dev/null | awk -v kind="${2-}" 'NR > 1 && (kind == "" || $2 == kind) {print $1}'
}

_volfs_options() {
  local words="ro rw allow_other allow_root hidden force writeback_cache direct_io debug
    overlay= transport= threads= max_background= uid= gid= mode= metadata= noauto nofail"
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

# The words given, and files.
_volfs_words_or_files() {
  compopt -o filenames
  mapfile -t COMPREPLY < <({ compgen -W "$1" -- "$cur"; compgen -f -- "$cur"; } | grep -v '/\.volfs$' | sort -u)
}

# The words of `volfs COMMAND WORD...` after the options are taken away.
_volfs_plain_words() {
  local word
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do [[ $word == -* ]] || printf '%s\n' "$word"; done
}

_volfs_flags() {
  local words
  case $1 in
    mount) words="-o -f --foreground --rescue --json" ;;
    umount) words="-l --lazy -f --force --json" ;;
    create) words="-n --dry-run --force --yes --json" ;;
    scan) words="--yaml --force --json" ;;
    array) words="--re-add --with --timeout --level --raid-devices --spare-devices --chunk --layout --metadata --bitmap
      --bitmap-chunk --consistency-policy --size --data-offset --name --homehost --uuid --assume-clean --force --readonly --yes --json" ;;
    snapshot) words="--origin --cow --size --chunk-size --overflow --yes --timeout --json" ;;
    lv) words="--size --extents --name --type --stripes --stripesize --mirrors --regionsize --snapshot --chunksize
      --permission --addtag --deltag --nosync --syncaction --alloc --yes --dry-run --force --activationmode --background --json" ;;
    map) words="--table --readonly --uuid --noflush --timeout --inactive --json" ;;
    where) words="--image --json" ;;
    top) words="--delay --count --json" ;;
    graph) words="--svg --json" ;;
    apply) words="--dry-run --yes --json" ;;
    overlay) words="--yes --dry-run --force --json" ;;
    image) words="--readonly --direct --partition --offset --length --no-activate --json" ;;
    *) words="--json" ;;
  esac
  printf '%s --help\n' "$words"
}

_volfs_subcommands() {
  case $1 in
    map) echo "create load clear suspend resume remove rename message table status" ;;
    lv) echo "create extend reduce remove rename change merge activate deactivate" ;;
    array) echo "create assemble fail remove add replace check repair idle frozen wait stop mdstat" ;;
    snapshot) echo "create remove merge wait status" ;;
    image) echo "add remove" ;;
    overlay) echo "status commit discard" ;;
  esac
}

# The values that an option of a command may have; nothing if they cannot be listed.
_volfs_values() {
  case $1,$2 in
    array,-l|array,--level) echo "linear raid0 raid1 raid4 raid5 raid6 raid10 0 1 4 5 6 10" ;;
    array,-p|array,--layout) echo "left-symmetric right-symmetric left-asymmetric right-asymmetric parity-first
      parity-last n2 f2 o2 original alternate" ;;
    array,-e|array,--metadata) echo "0.90 1.0 1.1 1.2" ;;
    array,-b|array,--bitmap) echo "internal none" ;;
    array,-k|array,--consistency-policy) echo "resync bitmap ppl" ;;
    lv,--type) echo "linear striped raid0 raid1 raid4 raid5 raid6 raid10 error zero" ;;
    lv,-l|lv,--extents) echo "100%FREE +100%FREE 50%VG 20%ORIGIN" ;;
    lv,-p|lv,--permission) echo "r rw" ;;
    lv,--deltag) _volfs_tags "${plain[2]-}" ;;
    lv,--syncaction) echo "check repair" ;;
    lv,--alloc) echo "inherit normal contiguous cling anywhere" ;;
    lv,--activationmode) echo "complete degraded partial" ;;
    lv,-s|lv,--snapshot) _volfs_origins "${plain[2]-}" ;;
  esac
}

# The tags of the mount that a path is in.
_volfs_tags() {
  local mount
  mount=$(_volfs_mount_of "$1") || return
  awk '/"tags": \[$/ {tags = 1; next} /\]/ {tags = 0} tags {gsub(/[ ",]/, ""); print}' "$mount/.volfs/status.json" | sort -u
}

# The volumes of the group that a path is in, by their names.
_volfs_origins() {
  local mount group
  mount=$(_volfs_mount_of "$1") || return
  group=${1#"$mount"/}
  find "$mount/${group%%/*}" -mindepth 1 -maxdepth 1 -type f -printf '%P\n' 2>/dev/null
}

_volfs_reply() {
  local cur=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]} words=
  local -a plain
  COMPREPLY=()
  mapfile -t plain < <(_volfs_plain_words)
  # --level=VALUE is three words to bash.
  if [ "$cur" = = ]; then
    cur=
  elif [ "$previous" = = ]; then
    previous=${COMP_WORDS[COMP_CWORD - 2]}
  fi
  if [ "$COMP_CWORD" = 1 ]; then
    words="mount umount create check scan inspect status tree where top graph events apply image map lv array snapshot overlay
      --help --version"
  elif [ "$previous" = -o ]; then
    _volfs_options
    return
  elif words=$(_volfs_values "$command" "$previous") && [ -n "$words" ]; then
    :
  elif [ "$previous" = --with ]; then
    words=$(_volfs_members "${plain[2]-}")
  elif [ "$previous" = --image ]; then
    words=$(_volfs_devices "${plain[1]-}")
  elif [ "$previous" = --origin ]; then
    _volfs_words_or_files "$(_volfs_paths volumes)"
    return
  elif [ "$previous" = --cow ]; then
    _volfs_words_or_files ""
    return
  elif [[ $cur == -* ]]; then
    words=$(_volfs_flags "$command")
  elif [ "$COMP_CWORD" = 2 ] && [ -n "$(_volfs_subcommands "$command")" ]; then
    words=$(_volfs_subcommands "$command")
  else
    case $command,${#plain[@]} in
      umount,*|status,*|tree,*|top,*|graph,*|events,*|apply,2|image,2) words=$(_volfs_mounts) ;;
      create,*|check,*|apply,1) _volfs_files "*.@(yaml|yml)"; return ;;
      image,3) [ "${plain[1]}" = add ] || words=$(_volfs_devices "${plain[2]}" image) ;;
      map,2) _volfs_words_or_files "$(_volfs_paths maps)"; return ;;
      array,2) _volfs_words_or_files "$(_volfs_paths arrays)"; return ;;
      array,*)
        case ${plain[1]} in
          fail|remove|replace) words=$(_volfs_members "${plain[2]}") ;;
          add) words=$(_volfs_devices "${plain[2]}" | grep -vxF -e "${plain[2]##*/}" -f <(_volfs_members "${plain[2]}")) ;;
          create|assemble) words=$(_volfs_devices "${plain[2]}") ;;
        esac ;;
      lv,[3-9]|lv,[1-9][0-9])
        case ${plain[1]} in create|extend) words=$(_volfs_devices "${plain[2]}" image; _volfs_devices "${plain[2]}" array) ;; esac ;;
      lv,2)
        [ "${plain[1]}" != merge ] || { words=$(_volfs_paths snapshots) && mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur"); return; }
        _volfs_words_or_files "$(_volfs_paths volumes)"
        return ;;
      snapshot,2|where,1) _volfs_words_or_files "$(_volfs_paths volumes)"; return ;;
      *) _volfs_words_or_files ""; return ;;
    esac
  fi
  mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

# To bash the @ of NAME@UUID is a word, and what it replaces is the last of them. That of @TAG begins a word.
_volfs() {
  local -a given=("${COMP_WORDS[@]:0:COMP_CWORD+1}") joined=()
  local word glued=
  for word in "${given[@]}"; do
    local last=$((${#joined[@]} - 1))
    if ((last >= 0)) && [[ $word == @ || ${joined[last]} == *@ ]] && [[ ${COMP_LINE-} == *"${joined[last]}$word"* ]]; then
      joined[last]+=$word
    else
      joined+=("$word")
    fi
  done
  local -a COMP_WORDS=("${joined[@]}")
  local COMP_CWORD=$((${#joined[@]} - 1))
  _volfs_reply
  # What bash has before the word at hand it keeps.
  word=${given[${#given[@]} - 1]}
  [ "$word" != @ ] || word=
  glued=${joined[${#joined[@]} - 1]}
  glued=${glued%"$word"}
  COMPREPLY=("${COMPREPLY[@]#"$glued"}")
}

complete -F _volfs volfs
