"""What a run does as Prometheus metrics, by Ray's own endpoint: `cluster/grafana.json` draws them."""

from collections import Counter as Count

from pipeline.engine.graph import Graph
from pipeline.engine.orders import Receipt


class Metrics:
    """Counters of a run, moved by each receipt. Ray puts `ray_` before the names and serves them on every node."""

    def __init__(self, graph: Graph) -> None:
        from ray.util.metrics import Counter, Gauge

        self.graph = graph
        self.parts = Counter("whim_parts", "Parts that came to an end, by stage and state.", ("stage", "state"))
        self.seconds = Counter("whim_seconds", "Seconds that workers spent on parts.", ("stage", "host"))
        self.frames = Counter("whim_frames", "Frames that a stage looked at.", ("stage",))
        self.peak_mb = Gauge("whim_peak_mb", "Largest memory of a worker so far, MiB.", ("host", "pid"))
        self.waiting = Gauge("whim_pending", "Parts that are still to be made, as far as they are known.", ("stage",))
        self._tell_waiting()

    def __call__(self, receipt: Receipt) -> None:
        for outcome in receipt.outcomes:
            stage = self.graph.stages[outcome.stage].name
            self.parts.inc(1, {"stage": stage, "state": str(outcome.state)})
            if outcome.wall_s > 0:
                self.seconds.inc(outcome.wall_s, {"stage": stage, "host": receipt.host})
            if outcome.num_frames:
                self.frames.inc(outcome.num_frames, {"stage": stage})
        self.peak_mb.set(receipt.peak_mb, {"host": receipt.host, "pid": str(receipt.pid)})
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        for stage, count in waiting_by_stage(self.graph).items():
            self.waiting.set(count, {"stage": stage})


def waiting_by_stage(graph: Graph) -> Count[str]:
    """Parts that are still to be made, by name of their stage: of several detectors together, whose stages have one name."""
    waiting: Count[str] = Count()
    for position, stage in enumerate(graph.stages):
        waiting[stage.name] += graph.num_tasks[position] - graph.num_settled[position]
    return waiting
