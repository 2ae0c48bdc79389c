# Which pods may do what with the bucket. EKS Pod Identity gives a role to a service account by its name and namespace:
# the service accounts need no annotation, and the cluster no OIDC provider.

locals {
  # What a role may do below which prefixes.
  tables  = ["${var.warehouse_prefix}*"]
  landing = ["${var.landing_prefix}*"]
  logs    = ["${var.logs_prefix}*"]

  roles = {
    # Runs load raw tables, move files that were loaded or are in quarantine, and write their output.
    runs = {
      service_account = { namespace = var.namespace, name = local.service_accounts.runs }
      read            = concat(local.tables, local.landing, local.logs)
      write           = concat(local.tables, local.landing, local.logs)
      delete          = concat(local.tables, local.landing)
    }
    # The code server's sensors list landed files and read Iceberg's metadata. Dagster stores what they log.
    "code-server" = {
      service_account = { namespace = var.namespace, name = local.service_accounts.code_server }
      read            = concat(local.tables, local.landing, local.logs)
      write           = local.logs
      delete          = []
    }
    # The webserver shows the output of runs, and the daemon stores what backfills log. Neither sees a table.
    dagster = {
      service_account = { namespace = var.namespace, name = local.service_accounts.dagster }
      read            = local.logs
      write           = local.logs
      delete          = []
    }
  }
  trino = {
    trino = {
      service_account = var.trino_service_account
      read            = local.tables
      write           = local.tables
      delete          = local.tables
    }
  }
  bound_roles = merge(local.roles, { for name, role in local.trino : name => role if var.trino_service_account != null })
}

data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]

    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }

    condition {
      test     = "StringEquals"
      variable = "aws:SourceArn"
      values   = [data.aws_eks_cluster.this.arn]
    }
  }
}

data "aws_iam_policy_document" "bucket_access" {
  for_each = local.bound_roles

  # Without it, S3 answers 403 and not 404 for an object that does not exist, which Dagster takes for an error.
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation"]
    resources = [aws_s3_bucket.lakehouse.arn]
  }

  statement {
    sid       = "Read"
    actions   = ["s3:GetObject"]
    resources = [for prefix in each.value.read : "${aws_s3_bucket.lakehouse.arn}/${prefix}"]
  }

  statement {
    sid       = "Write"
    actions   = ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = [for prefix in each.value.write : "${aws_s3_bucket.lakehouse.arn}/${prefix}"]
  }

  # Never s3:DeleteObjectVersion: a deleted object can be restored for `noncurrent_days`.
  dynamic "statement" {
    for_each = length(each.value.delete) > 0 ? [each.value.delete] : []

    content {
      sid       = "Delete"
      actions   = ["s3:DeleteObject"]
      resources = [for prefix in statement.value : "${aws_s3_bucket.lakehouse.arn}/${prefix}"]
    }
  }

  dynamic "statement" {
    for_each = var.kms_key_arn == null ? [] : [var.kms_key_arn]

    content {
      sid       = "Key"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
      resources = [statement.value]

      condition {
        test     = "StringEquals"
        variable = "kms:ViaService"
        values   = ["s3.${var.region}.${data.aws_partition.current.dns_suffix}"]
      }
    }
  }
}

resource "aws_iam_role" "pods" {
  for_each = local.bound_roles

  name               = "${var.name}-${each.key}"
  description        = "Service account ${each.value.service_account.name} in the namespace ${each.value.service_account.namespace} of ${var.cluster_name}"
  assume_role_policy = data.aws_iam_policy_document.pods.json
}

resource "aws_iam_role_policy" "bucket_access" {
  for_each = local.bound_roles

  name   = "bucket"
  role   = aws_iam_role.pods[each.key].id
  policy = data.aws_iam_policy_document.bucket_access[each.key].json
}

resource "aws_eks_pod_identity_association" "pods" {
  for_each = local.bound_roles

  cluster_name    = var.cluster_name
  namespace       = each.value.service_account.namespace
  service_account = each.value.service_account.name
  role_arn        = aws_iam_role.pods[each.key].arn
}
