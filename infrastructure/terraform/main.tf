# The cluster exists. What this configuration needs to know of it is read here.

data "aws_eks_cluster" "this" {
  name = var.cluster_name
}

data "aws_partition" "current" {}

# Where pods connect to: the API server and the database, in subnets, and S3, through its endpoint in the VPC.
data "aws_subnet" "kubernetes_api" {
  for_each = toset(data.aws_eks_cluster.this.vpc_config[0].subnet_ids)

  id = each.value
}

data "aws_subnet" "database" {
  for_each = toset(var.database_subnet_ids)

  id = each.value
}

data "aws_prefix_list" "s3" {
  name = "com.amazonaws.${var.region}.s3"
}

locals {
  # The service accounts of infrastructure/kubernetes/dagster/values.yaml and of the official chart, for a release that is
  # called dagster. A test compares them.
  release = "dagster"
  service_accounts = {
    runs        = "lakehouse-runs"
    code_server = "dagster-dagster-user-deployments-user-deployments"
    dagster     = "dagster" # webserver and daemon
  }

  dagster_values_file = coalesce(var.dagster_values_file, "${path.module}/../kubernetes/dagster/values.yaml")
  dagster_values      = yamldecode(file(local.dagster_values_file))
  image               = local.dagster_values["dagster-user-deployments"].deployments[0].image
}
