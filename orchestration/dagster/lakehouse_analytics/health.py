"""Whether the code server answers: `python -m lakehouse_analytics.health 4000`, for the probes of its pod.

`dagster api grpc-health-check` asks the same, and imports Dagster for it each time: seconds of CPU on a busy node.
"""

import sys

SERVICE = "DagsterApi"
SECONDS = 8.0


def main() -> None:
    """Exit with 0 where the server on this port of this machine serves, else with 1 and the reason."""
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
