#!/bin/sh
# Installs by apt the launch engines that `make test-cluster` runs. Where it cannot, it says what is missing and goes
# on: those tests are skipped, or fail where DAGRAD_REQUIRE_ENGINES=1.
PATH=$PATH:/usr/sbin:/sbin
missing=
while read -r program package; do
    command -v "$program" >/dev/null || case " $missing " in *" $package "*) ;; *) missing="$missing $package" ;; esac
done <<'LIST'
sshd openssh-server
ssh openssh-client
rsync rsync
slurmctld slurm-wlm
srun slurm-wlm
munged munge
mpirun openmpi-bin
ip iproute2
LIST
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null; then
    echo "missing, and this is no Debian:$missing"
elif [ "$(id -u)" -ne 0 ]; then
    echo "missing, and only root may install:$missing"
else
    echo "installing$missing"
    log=$(mktemp)
    # Nothing of it is to run as a service: the tests start what they need.
    if [ ! -e /usr/sbin/policy-rc.d ]; then
        printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d
        chmod +x /usr/sbin/policy-rc.d
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    # shellcheck disable=SC2086  # several words
    if ! { apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends $missing; } >"$log" 2>&1; then
        tail -n 5 "$log"
        echo "could not be installed:$missing"
    fi
    rm -f "$log"
fi
exit 0
