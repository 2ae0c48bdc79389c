# PostgreSQL with Dagster's runs, events and schedules. It contains no table of the lakehouse.

resource "aws_db_subnet_group" "dagster" {
  name       = "${var.name}-dagster"
  subnet_ids = var.database_subnet_ids
}

resource "aws_security_group" "database" {
  name        = "${var.name}-dagster-database"
  description = "PostgreSQL of Dagster"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "database" {
  # By number, because the id of the cluster's group is not known in a plan that also creates the cluster.
  for_each = { for index, id in local.database_clients : index => id }

  security_group_id            = aws_security_group.database.id
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = aws_db_instance.dagster.port
  to_port                      = aws_db_instance.dagster.port
}

resource "aws_db_parameter_group" "dagster" {
  name_prefix = "${var.name}-dagster-"
  family      = "postgres${var.database_version}"

  parameter {
    name  = "rds.force_ssl"
    value = "1"
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_db_instance" "dagster" {
  identifier     = "${var.name}-dagster"
  engine         = "postgres"
  engine_version = var.database_version
  instance_class = var.database_instance_class

  allocated_storage     = var.database_storage_gib.initial
  max_allocated_storage = var.database_storage_gib.maximum
  storage_type          = "gp3"
  storage_encrypted     = true
  kms_key_id            = var.kms_key_arn

  db_name  = local.dagster_values.postgresql.postgresqlDatabase
  username = local.dagster_values.postgresql.postgresqlUsername
  port     = local.dagster_values.postgresql.service.port
  # Secrets Manager makes and changes the password, so it is neither in the configuration nor in the state.
  manage_master_user_password = true

  db_subnet_group_name   = aws_db_subnet_group.dagster.name
  vpc_security_group_ids = [aws_security_group.database.id]
  parameter_group_name   = aws_db_parameter_group.dagster.name
  publicly_accessible    = false
  multi_az               = var.database_multi_az

  backup_retention_period   = var.database_backup_days
  backup_window             = "02:00-02:30"
  maintenance_window        = "sun:03:00-sun:04:00"
  copy_tags_to_snapshot     = true
  delete_automated_backups  = false
  deletion_protection       = true
  skip_final_snapshot       = false
  final_snapshot_identifier = "${var.name}-dagster-final"

  auto_minor_version_upgrade      = true
  allow_major_version_upgrade     = false
  apply_immediately               = false
  enabled_cloudwatch_logs_exports = ["postgresql"]

  lifecycle {
    prevent_destroy = true
  }
}

# RDS would change the password every seven days. Pods read it when they start, so after each change it has to be copied
# into the cluster, and the pods restarted (README.md).
resource "aws_secretsmanager_secret_rotation" "database" {
  secret_id          = aws_db_instance.dagster.master_user_secret[0].secret_arn
  rotate_immediately = false

  rotation_rules {
    automatically_after_days = var.password_rotation_days
  }
}

locals {
  cluster_security_group = data.aws_eks_cluster.this.vpc_config[0].cluster_security_group_id
  database_clients = (
    length(var.database_client_security_group_ids) > 0
    ? var.database_client_security_group_ids
    : [local.cluster_security_group]
  )
}
