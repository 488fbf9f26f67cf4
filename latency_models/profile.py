"""The command that profiles a device: times kernels and a few whole networks there, and writes its two files.

    python -m latency_models.profile device=host                      this machine, at most ten minutes
    python -m latency_models.profile export=DIR                       a folder to time on another device
    python -m latency_models.profile import=results.csv device=NAME   what came back from there
    python -m latency_models.profile few=FILE device=NAME             from a few whole networks timed anywhere

Not for the protocol (`timing`), what is timed (`workload`) or the fit (`latency_models.fit`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from device_profiles.profile import USER_FOLDER, is_shipped
from latency_models.fit.kernels import FEWEST_NETWORKS
from latency_models.measure.host import Limits, time_host
from latency_models.measure.kit import export_folder, read_results
from latency_models.measure.timing import RUNTIMES, Refused, add_runtime, make_settings
from latency_models.measure.to_profile import save_measured, summary
from latency_models.measure.workload import Workload
from latency_models.options import Options, run
from search_space.errors import Stopped, UserError
from search_space.family import RESOLUTION
from search_space.files import ensure_folder
from search_space.space_file import available_spaces, load_space

USAGE = "usage: python -m latency_models.profile device=NAME | export=DIR | import=FILE | few=FILE  [key=value ...]"
OPTIONS = {
    "device": "name of the profile (default: host)",
    "space": "spaces whose kernels are timed, with commas between (default: all shipped)",
    "resolution": f"pixels (default: {RESOLUTION})",
    "threads": "cores it runs on (default: 1)",
    "runtime": (
        "onnxruntime (default), openvino, litert, litert_adb (a phone), cuda, or the full dotted path of your own class"
    ),
    "optimization": (
        "onnxruntime: all (default), extended or basic; litert: xnnpack (default) or builtin; "
        "cuda: eager (default) or graph"
    ),
    "precision": "fp32 (default); litert: or int8; cuda, and openvino not on a CPU: or fp16",
    "processor": "openvino: CPU (default), GPU, NPU or MYRIAD",
    "minutes": "most time to take (default: 10)",
    "error": "kernels are enough once those left out are predicted so well (default: 0.03)",
    "networks": "whole random networks to time (default: 24; in an export 16)",
    "busy": "refuse (default) or accept a machine that does other work",
    "out": f"where the profile goes (default: ./{USER_FOLDER})",
    "export": "write a folder to time on another device",
    "import": "make a profile of the results.csv that came back",
    "few": "make a profile of a CSV of whole networks (architecture,latency_ms) and the shapes of known devices",
}
_NOT_WITH = {
    "export": ("device", "threads", "minutes", "error", "busy", "out", "import"),
    "import": tuple(name for name in OPTIONS if name not in ("import", "device", "out", "runtime")),
    "few": tuple(name for name in OPTIONS if name not in ("few", "device", "out")),
}


def main(arguments: Sequence[str]) -> int:
    """The command; its exit status."""
    return run(_profile, OPTIONS, USAGE, arguments)


def _profile(options: Options) -> str:
    for name, others in _NOT_WITH.items():
        if options.given(name) and (wrong := [other for other in others if options.given(other)]):
            raise UserError(f"{wrong[0]}= does not go with {name}=; {USAGE}")
    try:
        if options.given("export"):
            return export_folder(Path(options.text("export")), _workload(options, networks=16))
        if options.given("import"):
            return _import(options)
        if options.given("few"):
            from latency_models.fit.whole_networks_file import profile_from_few

            return profile_from_few(Path(options.text("few")), _device(options.text("device")), _out(options))
        return _host(options)
    except Refused as error:
        raise UserError(str(error)) from error


def _host(options: Options) -> str:
    device, out = _device(options.text("device", "host")), _out(options)
    workload = _workload(options, networks=24)
    limits = Limits(options.number("minutes", 10), options.number("error", 0.03))
    accept_noise = options.choice("busy", ("refuse", "accept")) == "accept"
    partial = ensure_folder(out) / f".{device}.partial.csv"
    try:
        timings = time_host(workload, partial, limits, accept_noise, _say)
    except KeyboardInterrupt:
        raise Stopped(f"stopped; the same command resumes from '{partial}'") from None
    profile = save_measured(device, out, workload, timings.facts, timings.records)
    partial.unlink()
    taken = f"  took {timings.minutes:.1f} minutes; left-out kernels weighted by their time: error {timings.error:.1%}"
    return f"{summary(profile, workload, out / device)}\n{taken}"


def _say(note: str) -> None:
    print(f"note: {note}", file=sys.stderr, flush=True)


def _import(options: Options) -> str:
    path, device, out = Path(options.text("import")), _device(options.text("device")), _out(options)
    runtime = _runtime(options)  # a file names a class, but only the user has it imported
    workload, facts, records = read_results(path)
    if options.given("runtime") and workload.settings.runtime != runtime:
        raise UserError(f"'{path}' was timed in runtime={workload.settings.runtime}, not in {runtime}")
    return summary(save_measured(device, out, workload, facts, records), workload, out / device)


def _workload(options: Options, networks: int) -> Workload:
    runtime = _runtime(options)
    settings = make_settings(
        runtime,
        options.text("optimization", ""),
        options.text("precision", ""),
        options.integer("threads", 1),
        options.text("processor", ""),
    )
    return Workload(
        spaces=tuple(load_space(name) for name in options.names("space", available_spaces())),
        resolution=options.integer("resolution", RESOLUTION, least=32),
        network_count=options.integer("networks", networks, least=FEWEST_NETWORKS),
        settings=settings,
    )


def _runtime(options: Options) -> str:
    """The name of a runtime, a class of the user's own imported."""
    name = options.text("runtime", next(iter(RUNTIMES)))
    if "." in name:
        add_runtime(name)
    return options.choice("runtime", tuple(RUNTIMES))


def _device(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise UserError(f"device={name} is no folder name; use letters, digits, '_', '-' and '.'")
    if is_shipped(name):
        raise UserError(
            f"device={name} is a device that comes with this project; give yours another name, such as host"
        )
    return name


def _out(options: Options) -> Path:
    return Path(options.text("out", USER_FOLDER))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
