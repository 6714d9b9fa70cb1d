"""The command line: serve, demo, simulate, plugins, config, and the commands of plugins."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import __version__, config
from gateway.app.gateway import Gateway
from gateway.config import Config
from gateway.errors import ConfigError
from gateway.kernel import active
from gateway.plugins import flags
from gateway.plugins.loader import Plugins
from gateway.plugins.plugin import SPECS
from gateway.serve import processes
from gateway.serve.server import Server
from gateway.telemetry.logs import Logs, Written

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

log = logging.getLogger("gateway")

COMMANDS = "gateway.commands"
"""The entry-point group in which installed packages offer commands by name."""

PIPE_BROKEN = 141
"""The exit status that a shell reports for a program ended by SIGPIPE."""

NO_WORKER = "no worker is configured: calls need one of a plugin or an operator, or --worker URL"

BUILT_IN = ("serve", "demo", "simulate", "plugins", "config")


def main(argv: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 on success, 2 for a mistake that the operator can correct."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    try:
        options = _parser(arguments).parse_args(arguments)
        status = options.run(options)
        sys.stdout.flush()
        sys.exit(status)
    except BrokenPipeError:  # `| head` is no error
        _drop_output()
        sys.exit(PIPE_BROKEN)
    except ConfigError as error:
        sys.exit(_complain(error.problems))
    except KeyboardInterrupt:
        sys.exit(130)


def _drop_output() -> None:
    """Redirect standard output to /dev/null: Python flushes it once more at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    installed = ", ".join(sorted(entry_points(group=COMMANDS).names))
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="A gateway between callers of LLMs and inference servers.",
        epilog=f"Commands of installed plugins: {installed}." if installed else None,
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="print the version and the kernel in use"
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_serve(commands)
    _add_demo(commands)
    _add_simulate(commands)
    _add_plugins(commands)
    _add_config(commands)
    _add_from_others(parser, commands, arguments)
    return parser


class _Version(argparse.Action):
    """Names the kernel, which is looked up only if somebody asks."""

    def __call__(self, *_: object) -> None:
        print(f"gateway {__version__}, kernel: {active()}")
        sys.exit()


def _add_serve(commands: "Commands") -> None:
    parser = commands.add_parser("serve", help="run the gateway")
    _add_settings(parser)
    parser.set_defaults(run=_serve)


def _add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that installed packages offer."""
    for name in flags.names():
        known = f"run the plugin {name}, configured by the environment where no file does"
        parser.add_argument(
            f"--{name}", dest="flags", action="append_const", const=name, help=known
        )


def _add_demo(commands: "Commands") -> None:
    parser = commands.add_parser("demo", help="run a gateway with a simulated worker")
    parser.add_argument("--port", type=int, default=9090, help="port to listen on (9090)")
    parser.add_argument("--plugin", action="append", help="additional plugin; repeatable")
    parser.add_argument(
        "--gpu-box", action="store_true", help="two simulated models that share a GPU"
    )
    _add_flags(parser)
    parser.set_defaults(run=_demo)


def _add_simulate(commands: "Commands") -> None:
    parser = commands.add_parser("simulate", help="run a simulated vLLM server")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on (8000)")
    parser.add_argument("--model", default="sim", help="name of the served model (sim)")
    parser.add_argument("--ttft", type=float, default=0.0, help="seconds to the first token (0)")
    parser.add_argument("--itl", type=float, default=0.0, help="seconds between tokens (0)")
    parser.add_argument(
        "--max-model-len", type=int, default=2048, help="context length in tokens (2048)"
    )
    parser.add_argument("--api-key", help="key that requests below /v1 need")
    parser.add_argument(
        "--development", action="store_true", help="serve vLLM's development endpoints"
    )
    parser.add_argument(
        "--enable-scale-out",
        action="store_true",
        help="serve generate, render and derender (else 403)",
    )
    parser.add_argument(
        "--enable-prompt-tokens-details",
        action="store_true",
        help="tell in usage what the prefix cache held",
    )
    parser.add_argument("--reasoning", action="store_true", help="think before each chat answer")
    parser.add_argument(
        "--responses-store", action="store_true", help="keep responses of /v1/responses"
    )
    parser.add_argument("--seed", type=int, help="makes calls without a seed repeatable")
    parser.add_argument("--fault", help="fault to inject, such as hang or reset:3")
    _add_life(parser)
    parser.set_defaults(run=_simulate)


def _add_life(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--load-time", type=float, default=0.0, help="seconds before it listens (0)"
    )
    parser.add_argument("--crash", type=float, help="seconds after its start at which it ends")
    parser.add_argument(
        "--exit-code", type=int, default=1, help="status of a crash; 137, 139: by a signal (1)"
    )
    parser.add_argument("--last-words", help="text to print at a crash")
    parser.add_argument(
        "--kv-cache-tokens", type=int, help="tokens that fit: a longer --max-model-len ends it"
    )


def _add_plugins(commands: "Commands") -> None:
    parser = commands.add_parser("plugins", help="print the plugins of each hook, in order")
    _add_settings(parser)
    parser.set_defaults(run=_plugins)


def _add_config(commands: "Commands") -> None:
    parser = commands.add_parser("config", help="check a configuration, or print its schema")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    check = actions.add_parser("check", help="print all mistakes and former names")
    check.add_argument("file", nargs="?", type=Path, help="instead of --config")
    _add_settings(check)
    check.set_defaults(run=_check)
    schema = actions.add_parser("schema", help="print the JSON Schema of a configuration file")
    schema.set_defaults(run=_schema)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, help="YAML or TOML file ($GATEWAY_CONFIG)")
    parser.add_argument("--host", help="address to listen on (127.0.0.1)")
    parser.add_argument("--port", help="port to listen on (9090)")
    parser.add_argument("--processes", help="number of processes that serve the port (1)")
    parser.add_argument(
        "--worker", dest="workers", action="append", metavar="URL", help="worker; repeatable"
    )
    parser.add_argument(
        "--plugin", dest="plugins", action="append", metavar="NAME", help="plugin; repeatable"
    )
    parser.add_argument(
        "--storage-path",
        dest="storage.path",
        metavar="FILE",
        help="file of the embedded database (gateway.db), or :memory:",
    )
    for former in ("--db-path", "--store"):
        parser.add_argument(former, help=argparse.SUPPRESS)
    parser.add_argument("--model", help="model to send to workers instead of the caller's")
    parser.add_argument("--log-level", help="minimum level to log: debug, info, warning or error")
    parser.add_argument("--log-format", help="text, json, or auto: text on a terminal, else json")
    parser.add_argument(
        "--allow-anonymous",
        action="store_true",
        default=None,
        help="allow other machines to connect without a key",
    )
    _add_flags(parser)


def _add_from_others(
    parser: argparse.ArgumentParser, commands: "Commands", arguments: Sequence[str]
) -> None:
    """Add a command that is not built in: of an installed package or of a configured plugin.

    If an installed package offers the command by name, only that package is loaded. The command's
    options contain the configuration as `settings`.
    """
    if not arguments or arguments[0].startswith("-") or arguments[0] in BUILT_IN:
        return
    finder = argparse.ArgumentParser(add_help=False)
    finder.add_argument("--config", type=Path)
    found, _ = finder.parse_known_args(arguments)
    settings = _load(found)
    parser.set_defaults(settings=settings)
    if any(argument.partition("=")[0] == "--db-path" for argument in arguments):
        print(
            "warning: --db-path is now called --storage-path; it works until 0.2", file=sys.stderr
        )
    installed = entry_points(group=COMMANDS)
    if arguments[0] in installed.names:
        installed[arguments[0]].load()(commands)
        return
    for hook in Plugins(settings.plugins).hooks["add_commands"]:
        hook.run(commands)


def _load(options: argparse.Namespace) -> Config:
    file = options.config or os.environ.get("GATEWAY_CONFIG")
    known = config.OPTIONS.keys() | config.former_names(Config)
    given = {name: value for name, value in vars(options).items() if name in known}
    offers = flags.settings_of(getattr(options, "flags", None) or (), os.environ)
    return config.load(Path(file) if file else None, os.environ, given, offers)


def _serve(options: argparse.Namespace) -> None:
    settings = _load(options)
    from_file = options.config or os.environ.get("GATEWAY_CONFIG")
    source = partial(_load, options) if from_file else None
    gateway = Gateway(settings, source=source)
    logs = _log_to_stderr(settings.log_level, settings.log_format)
    gateway.reloaded.append(logs.follow)
    if not settings.workers:
        log.warning(NO_WORKER)
    if settings.processes > 1:
        del gateway  # made only to find errors while a single process can report them
        sys.exit(processes.serve(settings, source))
    _run(gateway)


def _run(gateway: Gateway) -> None:
    server = Server(gateway)
    server.run()
    if not server.started:
        sys.exit(1)  # uvicorn has logged why


def _demo(options: argparse.Namespace) -> None:
    from gateway.demo import run_demo, run_gpu_box  # so that others do not load the simulator

    plugins, offered = options.plugin or [], options.flags or []
    if options.gpu_box:
        _log_to_stderr("info", "text")
        run_gpu_box(options.port, plugins, offered)
    else:
        _log_to_stderr("warning")
        run_demo(options.port, plugins, offered)


def _simulate(options: argparse.Namespace) -> None:
    from gateway.simulator import Faults, Life, SimulatorConfig, serve

    try:
        settings = SimulatorConfig(
            model=options.model,
            ttft=options.ttft,
            itl=options.itl,
            max_model_len=options.max_model_len,
            api_key=options.api_key,
            seed=options.seed,
            development=options.development,
            scale_out=options.enable_scale_out,
            reasoning=options.reasoning,
            responses_store=options.responses_store,
            prompt_tokens_details=options.enable_prompt_tokens_details,
            faults=Faults.parse(options.fault) if options.fault else Faults(),
        )
        life = Life(**{name: getattr(options, name) for name in Life.__struct_fields__})
    except ValueError as error:
        raise ConfigError(f"simulate: {error}") from None
    _log_to_stderr("info")
    url = f"http://{options.host}:{options.port}"
    log.info("simulating %s on %s/v1", options.model, url)
    for name in flags.names():
        print(flags.flag(name).simulator_examples(url, options.model), flush=True)
    serve(settings, options.host, options.port, life)


def _plugins(options: argparse.Namespace) -> None:
    plugins = Plugins(_load(options).plugins)
    width = max(len(name) for name in SPECS)
    for name in SPECS:
        chain = " -> ".join(hook.plugin for hook in plugins.hooks[name])
        print(f"{name:{width}}  {chain or '-'}")


def _check(options: argparse.Namespace) -> None:
    options.config = options.file or options.config
    generation = Gateway(_load(options)).generation
    for warning in generation.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    settings = generation.config
    print(f"ok: {len(settings.workers)} workers, {len(settings.plugins)} plugins")


def _schema(options: argparse.Namespace) -> None:
    print(config.schema().decode())


def _complain(problems: Sequence[str]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return 2


def _log_to_stderr(level: str, written: Written = "auto") -> Logs:
    logs = Logs(level, written)
    logs.begin()
    return logs
