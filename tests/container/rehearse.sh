#!/bin/bash
# rehearse.sh FOLDER CONTEXT TAG      builds CONTEXT/Dockerfile, unmodified, as TAG; says `docker` or `podman`
# With a Docker engine: docker build. Else with buildah and podman, as root, in a storage of their own below
# FOLDER; where the base image cannot be pulled, a stand-in of the same name is made by debootstrap and kept.
#   apt-get install -y --no-install-recommends debootstrap buildah podman runc
# env: VERSION and VCS_REF for the labels. Afterwards podman needs CONTAINERS_STORAGE_CONF=FOLDER/storage.conf
# and CONTAINERS_CONF=FOLDER/containers.conf.
set -euo pipefail
W=$(realpath -m "${1:?folder}"); CTX=$(realpath "${2:?context}"); TAG=${3:?tag}
BASE=$(sed -n 's/^ARG BASE_IMAGE=//p' "$CTX/Dockerfile")
CA=/etc/ssl/certs/ca-certificates.crt
ARGS=(--build-arg "VERSION=${VERSION:-unknown}" --build-arg "VCS_REF=${VCS_REF:-unknown}" -t "$TAG")
mkdir -p "$W"
build() { "$@" "$CTX" >"$W/build.log" 2>&1 || { tail -40 "$W/build.log" >&2; exit 1; }; }

if docker info >/dev/null 2>&1; then
  build docker build "${ARGS[@]}"
  echo docker; exit
fi

cat >"$W/storage.conf" <<C
[storage]
driver = "overlay"
graphroot = "$W/storage"
runroot = "$W/runroot"
C
# runc: old releases of crun refuse hybrid cgroups. ulimits: podman's defaults need CAP_SYS_RESOURCE.
cat >"$W/containers.conf" <<C
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
C
echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$W/policy.json"
export CONTAINERS_STORAGE_CONF=$W/storage.conf CONTAINERS_CONF=$W/containers.conf

if ! buildah images -q "$BASE" >/dev/null 2>&1 &&
   ! timeout 120 buildah pull -q --signature-policy "$W/policy.json" "$BASE" >"$W/pull.log" 2>&1; then
  MIRROR=$(awk '/^URIs:.*\/debian\/?$/{print $2; exit} /^deb /{print $2; exit}' \
           /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null || true)
  R=$W/rootfs; rm -rf "$R"
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv \
      bookworm "$R" "${MIRROR:?no Debian mirror in the apt sources}" >"$W/debootstrap.log" 2>&1
  ln -s /usr/bin/python3 "$R/usr/local/bin/python"; ln -s /usr/bin/python3 "$R/usr/local/bin/python3"
  rm -rf "$R"/var/cache/apt/archives/*.deb "$R"/var/lib/apt/lists/* "$R"/usr/share/{doc,man,locale}/*
  # This machine's certificate authorities and pip's trust in them: into the stand-in, never the Dockerfile.
  cp -L "$CA" "$R$CA"; printf '[global]\ncert = %s\n' "$CA" >"$R/etc/pip.conf"
  tar -C "$R" --numeric-owner -cf "$W/base.tar" .
  c=$(buildah from scratch)
  buildah add -q "$c" "$W/base.tar" / >/dev/null
  buildah config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin --env LANG=C.UTF-8 \
      --label org.example.stand-in=debootstrap "$c"
  buildah commit -q --rm "$c" "$BASE" >/dev/null
  rm -rf "$R" "$W/base.tar"
fi

# --pull-never: the base is there by now, and a stand-in is not asked for again.
build buildah bud --isolation chroot --network host --pull-never --format docker --layers=false \
      --signature-policy "$W/policy.json" "${ARGS[@]}"
buildah rmi --prune >/dev/null  # what was called TAG before
echo podman
