output "dagster_values" {
  description = "YAML for the values of the Dagster chart, for those who install it with helm: postgresql and computeLogManager."
  value       = yamlencode(local.dagster_overrides)
}

output "support_values" {
  description = "YAML for the values of lakehouse-support, for those who install it with helm: image, postgresql, networks."
  value       = yamlencode(local.support_overrides)
}

output "bucket" {
  description = "The bucket: computeLogManager.config.s3ComputeLogManager.bucket in the values of the Dagster chart."
  value       = aws_s3_bucket.lakehouse.id
}

output "warehouse" {
  description = "Address of the warehouse: the location of Trino's catalog, and PYICEBERG_CATALOG__<NAME>__WAREHOUSE."
  value       = "s3://${aws_s3_bucket.lakehouse.id}/${trimsuffix(var.warehouse_prefix, "/")}"
}

output "landing" {
  description = "Address below which other systems upload files: `arrives: {files: …}` in a source's contract."
  value       = "s3://${aws_s3_bucket.lakehouse.id}/${trimsuffix(var.landing_prefix, "/")}"
}

output "database_host" {
  description = "The database: postgresql.postgresqlHost of the Dagster chart, postgresql.host of lakehouse-support."
  value       = aws_db_instance.dagster.address
}

output "database_password_secret" {
  description = "ARN of the secret with the database's password (key password), for the Secret dagster-postgresql-secret."
  value       = aws_db_instance.dagster.master_user_secret[0].secret_arn
}

output "roles" {
  description = "ARN of the role of each kind of pods."
  value       = { for name, role in aws_iam_role.pods : name => role.arn }
}
