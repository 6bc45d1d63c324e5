"""`az vm run-command invoke`: a shell script in a running guest, through the agent that its image holds.

The script and what it says are kept only sealed. A script runs once, even when the server dies meanwhile:
the next one finds in the guest what it came to.
Source: Virtual Machines REST API, `runCommand`, api-version 2024-11-01.
"""

import re
from typing import Annotated, Any

from msgspec import Meta

from opengallery.arm.call import Call
from opengallery.arm.errors import ArmError, invalid_parameter
from opengallery.arm.operations import Work
from opengallery.arm.resource_type import Properties
from opengallery.arm.resources import Resource
from opengallery.arm.sealed import seal, unseal
from opengallery.arm.validation import converted
from opengallery.hypervisors.machine import Executed, GaveUp, GuestCommand, HypervisorError, NoAgent
from opengallery.providers.compute import machines

SHELL_SCRIPT = "RunShellScript"
LIMIT_S = 90 * 60
"""As long as in Azure."""
SHOWN_BYTES = 4096
"""As much of each stream as in Azure: the last of it."""
_PATIENCE_S = 60
_CLEAN_UP_S = 30
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

# Who finds the folder waits for the script that another server started there.
_RUN = f"""umask 077
folder=$1; shift
if mkdir "$folder" 2> /dev/null; then
  cat > "$folder/script.sh"
  timeout -k 5 {LIMIT_S} sh "$folder/script.sh" "$@" > "$folder/stdout" 2> "$folder/stderr" < /dev/null
  echo $? > "$folder/ended"
  mv "$folder/ended" "$folder/status"
elif [ ! -d "$folder" ]; then
  echo "can't make $folder" >&2; exit 1
fi
while [ ! -f "$folder/status" ]; do sleep 1; done
tail -c {SHOWN_BYTES} "$folder/stdout"
tail -c {SHOWN_BYTES} "$folder/stderr" >&2
exit "$(cat "$folder/status")"
"""


class Parameter(Properties):
    """A parameter of the script: its environment holds it by name, and its arguments in order."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,127}\Z")]
    value: Annotated[str, Meta(pattern=r"^[^\x00]*\Z")] = ""


class CommandInput(Properties):
    """What to run."""

    command_id: str
    script: list[str] = []
    parameters: list[Parameter] = []


def check(call: Call, machine: Resource, body: dict[str, Any]) -> None:
    """Refuse what can't be run; keep the rest out of sight."""
    command = converted(body, CommandInput, "body")
    os_type = machine.properties["storageProfile"]["osDisk"].get("osType", "Linux")
    if command.command_id.lower() != SHELL_SCRIPT.lower() or os_type != "Linux":
        raise invalid_parameter(
            "commandId",
            f"This server can't run '{command.command_id}' on a machine with {os_type}. It runs "
            f"{SHELL_SCRIPT} on Linux.",
        )
    if not any(line.strip() for line in command.script):
        raise invalid_parameter("script", "There is no script to run. Give one: --scripts COMMAND.")
    if call.services.hypervisor.state(machines.machine_id(machine)) != "running":
        raise ArmError(
            "OperationNotAllowed",
            f"Cannot run a command on VM '{machine.id.name}' since it does not run. Start it first: az vm start.",
            status=409,
        )
    sealed = seal(call.services.settings, dict(body))
    body.clear()
    body["sealed"] = sealed


def fulfil(work: Work) -> dict[str, str]:
    """Run the script, and answer what it said."""
    answer = work.sealed_step("run", _run, work)
    work.step("clean up", _clean_up, work)
    return answer


def _run(work: Work) -> dict[str, Any]:
    body = unseal(work.services.settings, work.operation.input["sealed"])
    command = converted(body, CommandInput, "body")
    done = _execute(
        work,
        GuestCommand(
            "/bin/sh",
            ("-c", _RUN, "sh", _folder(work), *(parameter.value for parameter in command.parameters)),
            _ENVIRONMENT | {parameter.name: parameter.value for parameter in command.parameters},
            "\n".join(command.script).encode() + b"\n",
            LIMIT_S + _PATIENCE_S,
        ),
    )
    return {"value": [_status(done)]}


def _clean_up(work: Work) -> None:
    """Remove what the script left in the guest; it need not succeed: the guest may be gone."""
    remove = ("-c", 'rm -rf "$1"', "sh", _folder(work))
    command = GuestCommand("/bin/sh", remove, _ENVIRONMENT, timeout_s=_CLEAN_UP_S)
    try:
        _execute(work, command)
    except ArmError:
        return


def _folder(work: Work) -> str:
    """Where the guest keeps the script, and what it came to."""
    return f"/run/run-command-{work.operation.id}"


def _execute(work: Work, command: GuestCommand) -> Executed:
    machine = work.resource()
    name = machine.id.name
    try:
        return work.services.hypervisor.execute(machines.machine_id(machine), command, work.services.closing)
    except NoAgent as error:
        raise ArmError(
            "VMAgentStatusCommunicationError",
            f"VM '{name}' has not reported status for VM agent: {error}. Its image needs the QEMU guest agent "
            "(Debian: qemu-guest-agent), which may still be starting. Or run the command by SSH, at the "
            "machine's public IP address (az vm list-ip-addresses).",
            status=409,
        ) from error
    except GaveUp as error:
        raise ArmError(
            "VMExtensionProvisioningTimeout",
            f"The script on VM '{name}' was given up: {error}. Let it do its work in the background.",
            status=409,
        ) from error
    except HypervisorError as error:
        raise ArmError(
            "VMExtensionProvisioningError", f"The script on VM '{name}' can't be run: {error}", status=409
        ) from error


def _status(done: Executed) -> dict[str, Any]:
    """The end of a script as Azure tells it: `succeeded` whatever the script's own status is."""
    how = "succeeded: "
    if done.status != 0:
        how = f"failed: failed to execute command: command terminated with exit status={done.status}"
    return {
        "code": "ProvisioningState/succeeded",
        "level": "Info",
        "displayStatus": "Provisioning succeeded",
        "message": f"Enable {how}\n[stdout]\n{_text(done.stdout)}\n[stderr]\n{_text(done.stderr)}",
    }


def _text(said: bytes) -> str:
    """The last of what was said, without characters that JSON's readers choke on."""
    return re.sub(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", "\ufffd", said[-SHOWN_BYTES:].decode(errors="replace"))
