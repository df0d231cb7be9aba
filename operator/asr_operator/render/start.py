"""How a server starts in a pod: small shell programs, each of which starts the next one, and the last the server.

All of them need no more than a POSIX shell, coreutils and grep, which every image of Triton has. None of them has `$$`,
which Kubernetes reads as `$` in a command.
"""

from asr_contract.server import HTTP_PORT, SHARED_MEMORY
from asr_operator.api import v1alpha1 as api
from asr_operator.render import pods

SERVER = "/opt/tritonserver/bin/tritonserver"
LOST_GRACE_SECONDS = 5
"""Of a server that has lost a process, or does not answer any more: there is little that it could still do."""
NVIDIA_ENTRY_POINT = "/opt/nvidia/nvidia_entrypoint.sh"

ENTER = 'if [ -x "$0" ]; then exec "$0" "$@"; fi; exec "$@"'
"""Goes through the image's own entry point, which a pod's command takes the place of.

NVIDIA's sets up CUDA's forward compatibility: without it, CUDA does not start on drivers that are older than the image.
"""

REMOVE_REGIONS = 'rm -f "$0"/triton_*; exec "$@"'
"""Starts a server without the shared memory of its killed predecessors in the same pod, which the volume outlives.

A server removes only what it has made itself: ten crashes would fill the volume, and no server would start again.
"""

HOLD_LOCK = 'exec 9<"$0" && flock --shared 9 && exec "$@"'
"""Starts a server that holds a lock as long as it lives: the shell becomes the server, with the lock's file open."""

WATCH = """\
runs() {
  { read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  case "$line" in *") Z "* | *") X "*) return 1 ;; esac
}
watch() {
  seen='' lost=0
  while sleep 2 && runs "$server"; do
    if ! grep -q ": [0-9A-F]*:$0 [0-9A-F]*:[0-9A-F]* 0A " /proc/net/tcp /proc/net/tcp6 2>/dev/null; then
      seen='' lost=0
      continue
    fi
    alive='' gone=''
    for folder in /proc/[0-9]*; do
      runs "${folder#/proc/}" || continue
      case "$line" in *" (triton_python_b) "?" $server "*) alive="$alive ${folder#/proc/}" ;; esac
    done
    for process in $seen; do
      case "$alive " in *" $process "*) ;; *) gone="$gone $process" ;; esac
    done
    if [ -z "$gone" ]; then
      seen=$alive lost=0
    elif lost=$((lost + 1)) && [ $lost -gt 1 ]; then
      echo "a Python process of Triton's models has ended (process$gone), and Triton does not start it again: the \
server ends, so that Kubernetes starts it again" | tee "TERMINATION_LOG" >&2
      kill -TERM "$server"
      sleep LOST_GRACE
      kill -KILL "$server" 2>/dev/null
    fi
  done
}
trap 'kill -TERM "$server" 2>/dev/null' TERM INT
"$@" &
server=$!
watch &
while wait "$server"; code=$?; runs "$server"; do :; done
exit $code
""".replace("TERMINATION_LOG", pods.TERMINATION_LOG).replace("LOST_GRACE", str(LOST_GRACE_SECONDS))
"""Runs a server, and ends it when the process of one of its Python models does.

Triton serves on without it, and fails every request to that model. Up to release 25.12 nothing of its API says so, and
before 26.04 only the readiness of the model itself, which the liveness probe asks of the scheduler alone. Processes
count that were there while the server listened: one that loads, or ends, knows itself why they go. They are the
server's own children by the name of the backend's program, since what they start themselves does not count; and they
have to be missing twice. What the lost process had in hand is never answered: the server is not given long to end, and
its clients learn at once that they have to ask elsewhere.
"""

RESTRICT = """\
key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \\n')
if [ ${#key} -ne 64 ]; then
  echo "no random number for the key of the restricted APIs" >&2
  exit 1
fi
exec "$@" "--http-restricted-api=HTTP:asr-restricted=$key" "--grpc-restricted-protocol=GRPC:asr-restricted=$key"
"""
"""Starts a server whose other APIs ask for a key that nobody knows: it is made here, and differs in each pod."""

RESTRICTED_HTTP = (
    *("metadata", "model-config", "model-repository"),
    *("shared-memory", "statistics", "trace", "logging"),
)
"""All but inference, and health, which the probes ask."""
RESTRICTED_GRPC = ("shared-memory", "trace", "logging")
"""What lets clients of one pod reach into it. The rest tells about the models, which `asr` asks for."""


def through_entry_point(command: list[str]) -> list[str]:
    """A container's command behind the entry point of NVIDIA's images, where the image has it."""
    return ["/bin/sh", "-c", ENTER, NVIDIA_ENTRY_POINT, *command]


def server(apis: api.Apis, lock: str | None) -> list[str]:
    """Command of the container with the server; the server's arguments follow.

    Args:
        apis: What clients may use.
        lock: File that the server holds as long as it lives.
    """
    steps = [
        *("/bin/sh", "-c", REMOVE_REGIONS, SHARED_MEMORY),
        *("/bin/sh", "-c", WATCH, f"{HTTP_PORT:04X}"),
        *(("/bin/sh", "-c", HOLD_LOCK, lock) if lock is not None else ()),
    ]
    if apis is api.Apis.INFERENCE:
        restrict = RESTRICT.replace("HTTP:", f"{','.join(RESTRICTED_HTTP)}:")
        steps += ["/bin/sh", "-c", restrict.replace("GRPC:", f"{','.join(RESTRICTED_GRPC)}:"), "restrict"]
    return through_entry_point([*steps, SERVER])
