"""Every option that more than one command may take: its flag, its type, its help; and how text is read."""

from __future__ import annotations

import inspect
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_UNITS = {"s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
#: Groups in the help, in this order.
DATA, MODEL, SOLVER, MACHINE, OUTPUT = "Data", "Model", "Solver", "Machine", "Output"
_PANELS = ("", DATA, MODEL, SOLVER, MACHINE, OUTPUT)


def parse_rows(text: str) -> slice:
    """Read ``A:B``, either end optional or counted from the last row by a minus."""
    match = re.fullmatch(r"\s*([+-]?\d+)?\s*:\s*([+-]?\d+)?\s*", text)
    if match is None:
        message = f"{text!r} is not of the form A:B, such as 0:1000 or -500:"
        raise typer.BadParameter(message)
    return slice(*(None if part is None else int(part) for part in match.groups()))


def parse_seconds(text: str) -> float:
    """Read a duration: seconds, or numbers with units such as ``90s``, ``55min``, ``1h30min``."""
    text = text.strip().lower()
    parts = re.findall(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", text)
    unread = re.sub(r"(\d+(?:\.\d*)?|\.\d+)\s*([a-z]*)", "", text).strip()
    bare = any(unit == "" for _, unit in parts)
    if (
        not parts
        or unread
        or (bare and len(parts) > 1)
        or any(unit not in _UNITS | {"": 1} for _, unit in parts)
    ):
        message = f"{text!r} is not a duration: give seconds, or for example 90s, 55min or 1h30min"
        raise typer.BadParameter(message)
    return sum(float(number) * (_UNITS[unit] if unit else 1.0) for number, unit in parts)


def parse_rank(text: str) -> Any:
    """Read a rank: ``auto`` or a whole number."""
    if text == "auto" or re.fullmatch(r"[+-]?\d+", text):
        return text if text == "auto" else int(text)
    message = f"{text!r} is not a rank: give 'auto' or a whole number"
    raise typer.BadParameter(message)


def parse_numbers(text: str) -> Any:
    """Read a number, or several with commas between them."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        message = f"{text!r}: give a number, or numbers with commas between them, one for each feature"
        raise typer.BadParameter(message) from None
    return numbers[0] if len(numbers) == 1 else numbers


def parse_gamma(text: str) -> Any:
    """Read a number, or a word that the estimator knows."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_class_weight(text: str) -> Any:
    """Read ``balanced``, or the weights of labels: ``0=1,1=5``."""
    if text == "balanced":
        return text
    try:
        pairs = [part.split("=") for part in text.split(",")]
        return {float(label): float(weight) for label, weight in pairs}
    except ValueError:
        message = f"{text!r} gives no weights of classes: write balanced, or LABEL=WEIGHT,... such as 0=1,1=5"
        raise typer.BadParameter(message) from None


@dataclass(frozen=True)
class Option:
    """One option, or one argument.

    Attributes
    ----------
    flag : str
        As it is written; empty for an argument. ``" /--no-x"`` is a switch that turns something off.
    kind : Any
        The type of its value.
    help : str
    default : Any
    metavar : str, optional
    parser : callable, optional
        Makes the value of the text.
    least : int, optional
        The smallest value.
    panel : str
        Where the help shows it.
    """

    flag: str
    kind: Any
    help: str
    default: Any = None
    metavar: str | None = None
    parser: Callable[[str], Any] | None = None
    least: int | None = None
    panel: str = MODEL

    @property
    def spelled(self) -> str:
        """The flag as it is typed."""
        return self.flag.removeprefix(" /")

    def parameter(self, name: str) -> inspect.Parameter:
        """Make the parameter that typer reads."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        if not self.flag:
            declared = typer.Argument(metavar=self.metavar, help=self.help)
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            return inspect.Parameter(name, kind, annotation=Annotated[self.kind, declared])
        shown = self.default is not None and not isinstance(self.default, bool)
        # What the parser reads is text, be it the default.
        default = self.default if self.parser is None or self.default is None else str(self.default)
        option = typer.Option(
            self.flag,
            metavar=self.metavar,
            help=self.help,
            parser=self.parser,
            min=self.least,
            rich_help_panel=self.panel,
            show_default=shown,
        )
        annotation = self.kind if self.default is not None else self.kind | None
        return inspect.Parameter(name, keyword, default=default, annotation=Annotated[annotation, option])


#: Settings of estimators, and what else several commands take, by the name of the parameter.
OPTIONS = {
    "store": Option("", str, "Zarr store, HDF5 file or .npy file, by path or URL.", metavar="STORE"),
    "model": Option("", str, "A model, as `fit --out` writes it.", metavar="MODEL"),
    "data": Option(
        "--data", str, "Array of STORE that holds X; may be left out if it holds one matrix.", metavar="NAME",
        panel=DATA,
    ),
    "target": Option(
        "--target", str, "Array of STORE that holds y, or another store and its array; y by default.",
        metavar="NAME|URL[#NAME]", panel=DATA,
    ),
    "weight": Option(
        "--weight", str, "Sample weights, given like --target.", metavar="NAME|URL[#NAME]", panel=DATA
    ),
    "rows": Option(
        "--rows", slice, "Only rows A to B-1; -1000: are the last 1000.", metavar="A:B", parser=parse_rows,
        panel=DATA,
    ),
    "missing_chunks": Option(
        "--missing-chunks", str, "What to do about absent chunks.", "warn", metavar="warn|error|fill",
        panel=DATA,
    ),
    "verify": Option(
        "--verify", bool, "First read all of it once, and compare the checksums that are stored.", False,
        panel=DATA,
    ),
    # What is minimised.
    "alpha": Option("--alpha", float, "Strength of the penalty.", metavar="A"),
    "alphas": Option(
        "--alpha", list[float], "Strength of the penalty, {default:g} by default; several for --cv.",
        metavar="A",
    ),
    "C": Option("--C", float, "Inverse of the strength of the penalty; positive.", metavar="C"),
    "l1_ratio": Option("--l1-ratio", float, "Share of the l1 penalty, 0 to 1.", metavar="R"),
    "loss": Option("--loss", str, "Loss of one row.", metavar="NAME"),
    "penalty": Option("--penalty", str, "Kind of the penalty.", metavar="l2|l1|elasticnet"),
    "early_stopping": Option(
        "--early-stopping", bool, "Stop when the loss on rows held out no longer falls.", False, panel=SOLVER
    ),
    "validation_fraction": Option(
        "--validation-fraction", float, "Part of the rows to hold out.", metavar="V", panel=SOLVER
    ),
    "n_iter_no_change": Option(
        "--n-iter-no-change", int, "Epochs in a row that may fail to lower the loss.", metavar="N", least=1,
        panel=SOLVER,
    ),
    "average": Option(
        " /--no-average", bool, "Give the last epoch's result, not the mean of all.", True, panel=SOLVER
    ),
    "positive": Option("--positive", bool, "Let no coefficient be negative."),
    "lower": Option(
        "--lower", Any, "Lower bound of coefficients, or one for each feature.", metavar="L[,L...]",
        parser=parse_numbers,
    ),
    "upper": Option(
        "--upper", Any, "Upper bound of coefficients, or one for each feature.", metavar="U[,U...]",
        parser=parse_numbers,
    ),
    "class_weight": Option(
        "--class-weight", Any, "Factors on the weights of the classes.", metavar="balanced|LABEL=WEIGHT,...",
        parser=parse_class_weight,
    ),
    "power": Option(
        "--power", float, "Of the variance: 0 normal, 1 Poisson, 2 Gamma, 3 inverse Gaussian.", metavar="P"
    ),
    "kernel": Option(
        "--kernel", str, "Kernel between rows.",
        metavar="rbf|linear|poly|laplacian|matern12|matern32|matern52",
    ),
    "gamma": Option(
        "--gamma", Any, "Of the kernel: a number, or how to find one.", metavar="G|scale|auto|median",
        parser=parse_gamma,
    ),
    "degree": Option("--degree", float, "Of the kernel poly.", metavar="D"),
    "coef0": Option("--coef0", float, "Of the kernel poly.", metavar="C"),
    "decision_function_shape": Option(
        "--decision-function-shape", str, "Decisions for each class or for each pair.", metavar="ovr|ovo"
    ),
    "max_iterations": Option(
        "--max-iterations", int, "Limit on steps of the solver.", metavar="N", panel=SOLVER
    ),
    "epsilon": Option("--epsilon", float, "Size of errors at which the loss changes.", metavar="E"),
    "features": Option(
        "--features", str, "Feature map, such as fourier:4000 or relu:2000,random_state=1.", metavar="SPEC"
    ),
    "standardize": Option(
        "--standardize", bool, "Penalise the coefficients of columns scaled to unit variance.", False
    ),
    "fit_intercept": Option(" /--no-intercept", bool, "Fit no intercept.", True),
    # How the penalty is chosen, and where a fit starts.
    "cv": Option(
        "--cv", int, "Choose among the alphas by K-fold cross-validation, in the same passes.", metavar="K"
    ),
    "hashed_folds": Option("--hashed-folds", bool, "Deal rows to folds at random instead of in runs.", False),
    "eps": Option("--eps", float, "With --cv: the least alpha as a share of the largest.", metavar="E"),
    "warm_start": Option(
        "--start", str, "Start from this model, with its features unless others are given.",
        metavar="MODEL.zarr", panel=SOLVER,
    ),
    # How it is solved.
    "solver": Option("--solver", str, "Method; auto asks a cost model.", panel=SOLVER),
    "rank": Option(
        "--rank", Any, "Columns of the sketch.", metavar="N|auto", parser=parse_rank, panel=SOLVER
    ),
    "tol": Option("--tol", float, "Accuracy at which to stop.", panel=SOLVER),
    "max_passes": Option("--max-passes", int, "Limit on reads of the data.", metavar="N", panel=SOLVER),
    "time_limit": Option(
        "--time-limit", float, "Seconds, or for example 55min.", metavar="TIME", parser=parse_seconds,
        panel=SOLVER,
    ),
    "precision": Option(
        "--precision", str, "Of products; residuals and certificates are always double.", "single",
        metavar="single|double", panel=SOLVER,
    ),
    "random_state": Option("--seed", int, "Of what is drawn, such as the sketch.", 0, least=0, panel=SOLVER),
    # Where it runs.
    "memory": Option(
        "--memory", str, "Limit for the whole process, such as 2GiB; half of what is free by default.",
        metavar="SIZE", panel=MACHINE,
    ),
    "device": Option(
        "--device", str, "A GPU where there is one, by default.", metavar="cpu|cuda", panel=MACHINE
    ),
    "scheduler": Option(
        "--scheduler", str, "Where passes run; an address is tcp://host:port.",
        metavar="threads|synchronous|ADDRESS", panel=MACHINE,
    ),
    "scheduler_file": Option(
        "--scheduler-file", Path, "File in which a Dask scheduler has left its address.", metavar="FILE",
        panel=MACHINE,
    ),
    "local_cluster": Option(
        "--local-cluster", int, "Start so many worker processes on this machine.", metavar="N", least=1,
        panel=MACHINE,
    ),
    "threads": Option("--threads", int, "Threads; one per core by default.", least=1, panel=MACHINE),
    # How a run that is cut short goes on.
    "checkpoint": Option(
        "--checkpoint", str, "Keep what every pass gave, so that a run that is cut short can go on.",
        metavar="DIR|URL", panel=OUTPUT,
    ),
    "checkpoint_every": Option(
        "--checkpoint-every", float, "Time between two writes of the checkpoint; every pass by default.",
        metavar="TIME", parser=parse_seconds, panel=OUTPUT,
    ),
    "resume": Option(
        "--resume", bool, "Go on from the checkpoint if there is one, and replace what it wrote.", False,
        panel=OUTPUT,
    ),
    # What is left behind.
    "keep_statistics": Option(
        "--keep-statistics", bool, "Keep all sums over the rows in the model, for `nysstream update`.", False,
        panel=OUTPUT,
    ),
    "report": Option(
        "--report", Path, "Write a page that shows how the fit went.", metavar="PAGE.html", panel=OUTPUT
    ),
    "overwrite": Option("--overwrite", bool, "Replace outputs that exist.", False, panel=OUTPUT),
    "json": Option("--json", bool, "Print one JSON object instead of text.", False, panel=OUTPUT),
}  # fmt: skip


def signature(function: Callable[..., Any], settings: Mapping[str, Option]) -> inspect.Signature:
    """Give a command's signature as typer reads it.

    Parameters
    ----------
    function : callable
        Its parameters without a default are options of :data:`OPTIONS`; those with an annotation of
        typer's are what that says. ``**settings`` stands for all of ``settings``.
    settings : mapping of str to Option

    Returns
    -------
    inspect.Signature
        Ordered as the help is.
    """
    parameters = []
    for parameter in inspect.signature(function, eval_str=True).parameters.values():
        name, default = parameter.name, parameter.default
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            parameters += [option.parameter(key) for key, option in settings.items()]
        elif get_origin(parameter.annotation) is Annotated:
            parameters.append(parameter)
        elif default is inspect.Parameter.empty:
            parameters.append(OPTIONS[name].parameter(name))
        else:
            parameters.append(replace(OPTIONS[name], default=default).parameter(name))
    return inspect.Signature(sorted(parameters, key=_place))


def _place(parameter: inspect.Parameter) -> int:
    """Give the place of a parameter's group in the help; arguments come first."""
    (declared,) = parameter.annotation.__metadata__
    return _PANELS.index(declared.rich_help_panel or ("" if not hasattr(declared, "is_flag") else OUTPUT))
