"""Commands of a memory, what limits them, and the delays between them as a table.

The table follows the JEDEC standards (JESD79-4, JESD209-5, JESD235, JESD238) in the form that
Ramulator 2.1 gives them: a row says that within one part of the channel no `following` command may
come sooner than `ticks` after a `preceding` one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hwmodels.dram.spec import DramSpec

ACT, PRE, PREAB, RD, WR, REFAB, REFPB, RDA, WRA, ACT2, CAS = range(11)
COMMANDS = ("ACT", "PRE", "PREab", "RD", "WR", "REFab", "REFpb", "RDA", "WRA", "ACT2", "CAS")
"""Names by number. PREab and REFab are for all banks of a rank, RDA and WRA precharge after."""

CHANNEL, RANK, STACK, GROUP, BANK = range(5)
"""Parts of a channel; a pseudo-channel counts as a rank."""

COLUMN = (RD, WR, RDA, WRA)
ROW = (ACT, PRE, PREAB, REFAB, REFPB)

(
    BUS,
    LONG_COLUMN,
    TURNAROUND,
    ACTIVATE,
    ACTIVATE_GAP,
    FOUR_ACTIVATES,
    ROW_CYCLE,
    REFRESH,
    COMMAND_BUS,
    QUEUE,
    DEMAND,
) = range(11)
LIMITS = (
    "bus",
    "tCCD_L",
    "turnaround",
    "tRCD",
    "tRRD",
    "tFAW",
    "tRC",
    "refresh",
    "command_bus",
    "queue",
    "demand",
)
"""What may keep a data bus idle, by number; `bus` is the transfer itself, `demand` no request."""


@dataclass(frozen=True)
class Constraint:
    """No `following` within `ticks` of a `preceding` command in one `level` of the channel.

    With `is_sibling` it holds for other parts of that level under the same parent instead. `limit`
    says what the delay counts as. `window` is how many preceding commands may come meanwhile.
    """

    level: int
    preceding: int
    following: int
    ticks: int
    limit: int
    is_sibling: bool = False
    window: int = 1


def constraints(spec: DramSpec) -> tuple[Constraint, ...]:
    """Return all delays of a memory in ticks of its command bus.

    A command that holds its bus for several ticks is executed at the last of them, so a delay is
    longer by the ticks of its first and shorter by those of its second command (Ramulator 2.1).
    """
    return tuple(
        row
        for row in (
            *_column_rows(spec),
            *_bank_rows(spec),
            *_refresh_rows(spec),
            *_bank_refresh_rows(spec),
            *_command_bus_rows(spec),
        )
        if row.ticks > 0
    )


def _row(
    spec: DramSpec,
    level: int,
    pair: tuple[int, int],
    cycles: int,
    limit: int,
    *,
    is_sibling: bool = False,
    window: int = 1,
) -> Constraint:
    ticks = cycles * spec.ticks_per_clock + held(spec, pair[0]) - held(spec, pair[1])
    return Constraint(level, *pair, ticks, limit, is_sibling, window)


def held(spec: DramSpec, command: int) -> int:
    """Return how many ticks a command holds its bus."""
    if command in COLUMN:
        return spec.column_ticks
    return spec.activate_ticks if command == ACT else 1


def _column_rows(spec: DramSpec) -> Iterator[Constraint]:
    """Yield what separates column commands: bursts, bank groups, turnarounds."""
    t = spec.cycles
    burst, read, write = t("tBL"), (RD, RDA), (WR, WRA)
    for before, after in ((read, RD), (write, WR)):
        for first in before:
            pair = (first, after)
            yield _row(spec, RANK, pair, burst, BUS)
            yield _row(spec, STACK, pair, t("tCCD_S"), BUS)
            yield _row(spec, GROUP, pair, t("tCCD_L"), LONG_COLUMN)
    for first in read:
        yield _row(spec, STACK, (first, RD), t("tCCD_R", 0), TURNAROUND, is_sibling=True)
        yield _row(spec, RANK, (first, WR), t("tRTW"), TURNAROUND)
    for first in write:
        data = t("tCWL") + burst + t("tWTR_S")
        yield _row(spec, RANK, (first, RD), data, TURNAROUND)
        data = t("tCWL") + t("tBL_L", burst) + t("tWTR_L")
        yield _row(spec, GROUP, (first, RD), data, TURNAROUND)
    if spec.organisation.ranks > 1:
        gap, lead = burst + t("tRTRS", 0), t("tCL") - t("tCWL")
        for first, second in zip(read, write, strict=True):
            for pair, cycles in (
                ((first, RD), gap),
                ((first, WR), gap + lead),
                ((second, WR), burst),
                ((second, RD), gap - lead),
            ):
                yield _row(spec, RANK, pair, cycles, TURNAROUND, is_sibling=True)


def _bank_rows(spec: DramSpec) -> Iterator[Constraint]:
    """Yield what opening and closing rows takes."""
    t = spec.cycles
    written = t("tCWL") + t("tBL") + t("tWR")
    close = t("tRP")
    yield _row(spec, RANK, (ACT, ACT), t("tRRD_S"), ACTIVATE_GAP)
    yield _row(spec, GROUP, (ACT, ACT), t("tRRD_L"), ACTIVATE_GAP)
    yield _row(spec, RANK, (ACT, ACT), t("tFAW"), FOUR_ACTIVATES, window=4)
    yield _row(spec, BANK, (ACT, ACT), t("tRC"), ROW_CYCLE)
    yield _row(spec, BANK, (ACT, RD), t("tRCDRD"), ACTIVATE)
    yield _row(spec, BANK, (ACT, WR), t("tRCDWR"), ACTIVATE)
    for level, command in ((BANK, PRE), (RANK, PREAB)):
        yield _row(spec, level, (ACT, command), t("tRAS"), ROW_CYCLE)
        yield _row(spec, level, (RD, command), t("tRTP"), ROW_CYCLE)
        yield _row(spec, level, (WR, command), written, ROW_CYCLE)
        for first in (PRE, PREAB):
            yield _row(spec, RANK, (first, command), t("tPPD", 0), COMMAND_BUS)
    yield _row(spec, BANK, (PRE, ACT), close, ROW_CYCLE)
    yield _row(spec, RANK, (PREAB, ACT), t("tRPab", close), ROW_CYCLE)
    yield _row(spec, BANK, (RDA, ACT), t("tRDA", t("tRTP")) + close, ROW_CYCLE)
    yield _row(spec, BANK, (WRA, ACT), written + close, ROW_CYCLE)


def _refresh_rows(spec: DramSpec) -> Iterator[Constraint]:
    """Yield what REF of all banks needs before and leaves behind."""
    t = spec.cycles
    close = t("tRP")
    for first, cycles in (
        (ACT, t("tRC")),
        (PRE, close),
        (PREAB, t("tRPab", close)),
        (RDA, t("tRTP") + close),
        (WRA, t("tCWL") + t("tBL") + t("tWR") + close),
    ):
        yield _row(spec, RANK, (first, REFAB), cycles, ROW_CYCLE)
    for following in (ACT, PREAB, REFAB, REFPB):
        yield _row(spec, RANK, (REFAB, following), t("tRFC"), REFRESH)


def _bank_refresh_rows(spec: DramSpec) -> Iterator[Constraint]:
    """Yield what REF of one bank needs before and leaves behind, where there is such a command."""
    if "tRFCpb" not in spec.timings:
        return
    t = spec.cycles
    close = t("tRP")
    between = t("tRREFD", t("tRRD_S"))
    for first, cycles in (
        (ACT, t("tRC")),
        (PRE, close),
        (RDA, t("tRDA", t("tRTP")) + close),
        (WRA, t("tCWL") + t("tBL") + t("tWR") + close),
    ):
        yield _row(spec, BANK, (first, REFPB), cycles, ROW_CYCLE)
    yield _row(spec, RANK, (PREAB, REFPB), t("tRPab", close), ROW_CYCLE)
    yield _row(spec, RANK, (ACT, REFPB), t("tRRD_S"), ACTIVATE_GAP)
    yield _row(spec, GROUP, (ACT, REFPB), t("tRRDpb_L", 0), ACTIVATE_GAP)
    yield _row(spec, RANK, (REFPB, ACT), between, REFRESH)
    yield _row(spec, BANK, (REFPB, ACT), t("tRFCpb"), REFRESH)
    yield _row(spec, RANK, (REFPB, REFPB), t("tREFD", between), REFRESH)
    yield _row(spec, BANK, (REFPB, REFPB), t("tRFCpb"), REFRESH)
    yield _row(spec, RANK, (REFPB, REFAB), t("tRFCpb"), REFRESH)


def _command_bus_rows(spec: DramSpec) -> Iterator[Constraint]:
    """Yield how long commands hold the bus that all of a channel share."""
    is_single = spec.command_bus == "single"
    after_row = (*ROW, RD, WR) if is_single else ROW
    after_column = (*ROW, RD, WR) if is_single else (RD, WR)
    if spec.activate_ticks > 1:
        for following in after_row:
            yield Constraint(CHANNEL, ACT, following, spec.activate_ticks, COMMAND_BUS)
    if spec.column_ticks > 1:
        for first in COLUMN:
            for following in after_column:
                yield Constraint(CHANNEL, first, following, spec.column_ticks, COMMAND_BUS)
