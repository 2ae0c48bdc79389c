"""Checks whether the code server answers, for the probes of its pod: `python -m lakehouse_analytics.health 4000`.

`dagster api grpc-health-check` does the same, but imports Dagster each time, which takes seconds of CPU time on a busy
node.
"""

import sys

SERVICE = "DagsterApi"
SECONDS = 8.0


def main() -> None:
    """Exit with 0 if the server on a port of this machine is serving, else with 1 and the reason."""
    import grpc  # type: ignore[import-untyped]
    from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse  # type: ignore[import-untyped]
    from grpc_health.v1.health_pb2_grpc import HealthStub  # type: ignore[import-untyped]

    port = sys.argv[1] if len(sys.argv) > 1 else "4000"
    with grpc.insecure_channel(f"localhost:{port}") as channel:
        try:
            answer = HealthStub(channel).Check(HealthCheckRequest(service=SERVICE), timeout=SECONDS)
        except grpc.RpcError as error:
            sys.exit(f"The code server on port {port} does not answer: {error.code().name} ({error.details()})")
    if answer.status != HealthCheckResponse.SERVING:
        sys.exit(
            f"The code server on port {port} does not serve: {HealthCheckResponse.ServingStatus.Name(answer.status)}"
        )


if __name__ == "__main__":
    main()
