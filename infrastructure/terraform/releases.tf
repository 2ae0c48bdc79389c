# The official chart and lakehouse-support, with the values of this repository and those that follow from the resources
# here. Maps are merged into the values; lists, such as volumes, would replace theirs, so none of the Dagster chart is set.

locals {
  sslmode = var.verify_database_certificate ? "verify-full" : "require"
  ca_path = "/etc/postgresql-ca/ca.pem" # as in values.yaml and in lakehouse-support

  # `terraform output` prints these for those who install with helm.
  dagster_overrides = {
    postgresql = {
      postgresqlHost = aws_db_instance.dagster.address
      postgresqlParams = merge(
        { sslmode = local.sslmode },
        var.verify_database_certificate ? { sslrootcert = local.ca_path } : {},
      )
    }
    computeLogManager = {
      type = "S3ComputeLogManager"
      config = {
        s3ComputeLogManager = {
          bucket = aws_s3_bucket.lakehouse.id
          prefix = trimsuffix(var.logs_prefix, "/")
        }
      }
    }
  }

  support_overrides = {
    image   = { for key, value in local.image : key => value if contains(["repository", "tag", "digest"], key) }
    dagster = { release = local.release }
    postgresql = {
      host     = aws_db_instance.dagster.address
      port     = aws_db_instance.dagster.port
      user     = aws_db_instance.dagster.username
      database = aws_db_instance.dagster.db_name
      sslmode  = local.sslmode
      ca       = { configMap = var.verify_database_certificate ? "postgresql-ca" : "" }
    }
    instance = {
      backup = { image = { tag = "${var.database_version}-bookworm" } }
    }
    networkPolicies = {
      egress = {
        kubernetesApi = { cidrs = sort(distinct([for subnet in data.aws_subnet.kubernetes_api : subnet.cidr_block])) }
        postgresql    = { cidrs = sort(distinct([for subnet in data.aws_subnet.database : subnet.cidr_block])) }
        s3            = { cidrs = sort(data.aws_prefix_list.s3.cidr_blocks) }
        # The agent of EKS Pod Identity, on each node: pods get their role's credentials from it.
        podIdentity = { from = ["runs", "codeServer", "dagster"], cidrs = ["169.254.170.23/32"], ports = [80] }
      }
    }
  }
}

# lakehouse-support is upgraded before the Dagster chart, because its Job backs up and migrates the database; thus this
# dependency. Only the first installation has the other order: `releases = "dagster"`, then `releases = "all"`.
resource "helm_release" "dagster" {
  count = var.releases == "none" ? 0 : 1

  name       = local.release
  namespace  = var.namespace
  repository = "https://dagster-io.github.io/helm"
  chart      = "dagster"
  version    = var.dagster_chart_version
  values     = [file(local.dagster_values_file), yamlencode(local.dagster_overrides)]

  atomic  = true
  wait    = true
  timeout = 600

  lifecycle {
    prevent_destroy = true

    precondition {
      condition     = local.image.tag != "SET"
      error_message = "The values of the Dagster chart are still those of the example: change the lines marked SET, and run make helm-check."
    }
  }

  depends_on = [
    helm_release.support,
    aws_eks_pod_identity_association.pods,
    aws_iam_role_policy.bucket_access,
    aws_vpc_security_group_ingress_rule.database,
  ]
}

resource "helm_release" "support" {
  count = var.releases == "all" ? 1 : 0

  name      = "lakehouse-support"
  namespace = var.namespace
  chart     = "${path.module}/../../charts/lakehouse-support"
  values = concat(
    [yamlencode(local.support_overrides)],
    var.support_values_file == null ? [] : [file(var.support_values_file)],
  )

  # Helm waits for the Job that backs up and migrates in any case. `wait` would also wait for a volume that only this Job
  # binds. The Job's own deadline is an hour.
  wait    = false
  timeout = 3900

  lifecycle {
    prevent_destroy = true
  }

  depends_on = [
    aws_vpc_security_group_ingress_rule.database,
  ]
}
