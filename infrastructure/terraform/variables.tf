# --- What exists already

variable "region" {
  description = "AWS region of the EKS cluster, the bucket and the database."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]$", var.region))
    error_message = "region: expected the name of an AWS region, such as eu-central-1."
  }
}

variable "cluster_name" {
  description = "Name of the EKS cluster. It needs the add-on eks-pod-identity-agent."
  type        = string

  validation {
    condition     = can(regex("^[0-9A-Za-z][0-9A-Za-z_-]{0,99}$", var.cluster_name))
    error_message = "cluster_name: expected the name of an EKS cluster, not its ARN."
  }
}

variable "vpc_id" {
  description = "VPC of the EKS cluster."
  type        = string

  validation {
    condition     = startswith(var.vpc_id, "vpc-")
    error_message = "vpc_id: expected the id of a VPC, such as vpc-0123456789abcdef0."
  }
}

variable "database_subnet_ids" {
  description = "Private subnets for the database, in at least two availability zones."
  type        = list(string)

  validation {
    condition     = length(distinct(var.database_subnet_ids)) >= 2 && alltrue([for id in var.database_subnet_ids : startswith(id, "subnet-")])
    error_message = "database_subnet_ids: expected the ids of at least two subnets, such as subnet-0123456789abcdef0."
  }
}

variable "database_client_security_group_ids" {
  description = "Security groups that may connect to the database. Default: the cluster's own, which nodes and pods have."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for id in var.database_client_security_group_ids : startswith(id, "sg-")])
    error_message = "database_client_security_group_ids: expected ids of security groups, such as sg-0123456789abcdef0."
  }
}

# --- Names

variable "name" {
  description = "Prefix of the names of everything that this configuration creates on AWS."
  type        = string
  default     = "lakehouse"

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9]){1,30}$", var.name))
    error_message = "name: expected 2 to 31 lowercase letters, digits and single hyphens, the first a letter."
  }
}

variable "tags" {
  description = "More tags for everything that this configuration creates on AWS."
  type        = map(string)
  default     = {}
}

variable "namespace" {
  description = "Kubernetes namespace of both Helm releases. It must exist, with its Secrets, before they are installed."
  type        = string
  default     = "dagster"

  validation {
    condition     = can(regex("^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$", var.namespace))
    error_message = "namespace: expected the name of a Kubernetes namespace."
  }
}

# --- The bucket

variable "bucket" {
  description = "Name of the S3 bucket for tables, landed files and the output of runs. It is created, and must be free."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "bucket: expected 3 to 63 lowercase letters, digits and hyphens. Dots do not work with TLS."
  }
}

variable "warehouse_prefix" {
  description = "Prefix of the Iceberg tables. No object below it ever expires: Iceberg maintenance deletes its files."
  type        = string
  default     = "warehouse/"

  validation {
    condition     = can(regex("^[^/].*/$", var.warehouse_prefix))
    error_message = "warehouse_prefix: expected a prefix that ends with a slash and does not begin with one, such as warehouse/."
  }
}

variable "landing_prefix" {
  description = "Prefix of the files that other systems upload."
  type        = string
  default     = "landing/"

  validation {
    condition     = can(regex("^[^/].*/$", var.landing_prefix)) && !startswith(var.landing_prefix, var.warehouse_prefix) && !startswith(var.warehouse_prefix, var.landing_prefix)
    error_message = "landing_prefix: expected a prefix that ends with a slash, such as landing/, apart from warehouse_prefix."
  }
}

variable "logs_prefix" {
  description = "Prefix of the output of runs. It must equal the prefix of computeLogManager in the values of the Dagster chart."
  type        = string
  default     = "dagster/logs/"

  validation {
    condition     = can(regex("^[^/].*/$", var.logs_prefix)) && alltrue([for other in [var.warehouse_prefix, var.landing_prefix] : !startswith(var.logs_prefix, other) && !startswith(other, var.logs_prefix)])
    error_message = "logs_prefix: expected a prefix that ends with a slash, such as dagster/logs/, apart from warehouse_prefix and landing_prefix."
  }
}

variable "logs_days" {
  description = "Days for which the output of runs is kept. Default: as upkeep.prune.olderThanDays of lakehouse-support keeps runs."
  type        = number
  default     = 90

  validation {
    condition     = var.logs_days >= 1 && floor(var.logs_days) == var.logs_days
    error_message = "logs_days: expected a whole number of days, at least 1."
  }
}

variable "quarantine_prefixes" {
  description = "Prefixes of files that could not be loaded: one folder _quarantine/ for each folder with landed files."
  type        = list(string)
  default     = ["landing/_quarantine/"]

  validation {
    condition     = alltrue([for prefix in var.quarantine_prefixes : startswith(prefix, var.landing_prefix) && endswith(prefix, "/_quarantine/")])
    error_message = "quarantine_prefixes: expected prefixes below landing_prefix that end with /_quarantine/, such as landing/_quarantine/."
  }
}

variable "quarantine_days" {
  description = "Days for which quarantined files are kept. They exist nowhere else in the bucket."
  type        = number
  default     = 180

  validation {
    condition     = var.quarantine_days >= 30 && floor(var.quarantine_days) == var.quarantine_days
    error_message = "quarantine_days: expected a whole number of days, at least 30, so that there is time to inspect the files."
  }
}

variable "noncurrent_days" {
  description = "Days for which a deleted or overwritten object can be restored. Storage is paid for until then."
  type        = number
  default     = 7

  validation {
    condition     = var.noncurrent_days >= 1 && floor(var.noncurrent_days) == var.noncurrent_days
    error_message = "noncurrent_days: expected a whole number of days, at least 1."
  }
}

variable "kms_key_arn" {
  description = "KMS key that encrypts the bucket and the database. Default: S3's own keys, and the account's key for RDS."
  type        = string
  default     = null

  validation {
    condition     = var.kms_key_arn == null || can(regex("^arn:aws[a-z-]*:kms:[^:]+:[0-9]{12}:key/", var.kms_key_arn))
    error_message = "kms_key_arn: expected the ARN of a key (not of an alias), such as arn:aws:kms:eu-central-1:111122223333:key/…."
  }
}

# --- The database of Dagster

variable "database_version" {
  description = "Major version of PostgreSQL. instance.backup.image of lakehouse-support must have the same one."
  type        = string
  default     = "17"

  validation {
    condition     = can(regex("^1[4-8]$", var.database_version))
    error_message = "database_version: expected a major version of PostgreSQL from 14 to 18. AWS chooses the minor one."
  }
}

variable "database_instance_class" {
  description = "Instance class of RDS. Its memory decides how many connections are allowed; `make helm-check` computes how many are needed."
  type        = string
  default     = "db.t4g.medium"

  validation {
    condition     = startswith(var.database_instance_class, "db.")
    error_message = "database_instance_class: expected an instance class of RDS, such as db.t4g.medium."
  }
}

variable "database_storage_gib" {
  description = "Storage of the database in GiB: at first, and the limit up to which RDS extends it."
  type        = object({ initial = number, maximum = number })
  default     = { initial = 20, maximum = 200 }

  validation {
    condition     = var.database_storage_gib.initial >= 20 && var.database_storage_gib.maximum > var.database_storage_gib.initial
    error_message = "database_storage_gib: expected initial of at least 20, and a larger maximum."
  }
}

variable "database_backup_days" {
  description = "Days for which backups are kept. The database can be restored to any second of them."
  type        = number
  default     = 14

  validation {
    condition     = var.database_backup_days >= 1 && var.database_backup_days <= 35
    error_message = "database_backup_days: expected 1 to 35."
  }
}

variable "database_multi_az" {
  description = "Whether RDS keeps a standby in a second availability zone. Doubles the price."
  type        = bool
  default     = false
}

variable "password_rotation_days" {
  description = "Days after which Secrets Manager changes the database's password. Copy it into the cluster after each change."
  type        = number
  default     = 365

  validation {
    condition     = var.password_rotation_days >= 1 && var.password_rotation_days <= 1000
    error_message = "password_rotation_days: expected 1 to 1000."
  }
}

variable "verify_database_certificate" {
  description = "Whether clients verify the database's certificate. Needs the ConfigMap postgresql-ca and its volumes in the values of the Dagster chart."
  type        = bool
  default     = false
}

# --- Trino, which writes the tables

variable "trino_service_account" {
  description = "Service account of Trino in this cluster, which gets access to the tables. Default: none, Trino has its access from elsewhere."
  type        = object({ namespace = string, name = string })
  default     = null
}

# --- The Helm releases

variable "releases" {
  description = "Which Helm releases are installed: none, dagster, or all (with lakehouse-support). The first installation goes through them in this order."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "dagster", "all"], var.releases)
    error_message = "releases: expected none, dagster or all."
  }
}

variable "dagster_chart_version" {
  description = "Version of the official chart: that of Dagster in orchestration/dagster/requirements.lock."
  type        = string
  default     = "1.13.27"

  validation {
    condition     = can(regex("^[0-9]+\\.[0-9]+\\.[0-9]+$", var.dagster_chart_version))
    error_message = "dagster_chart_version: expected a version such as 1.13.27."
  }
}

variable "dagster_values_file" {
  description = "Values of the Dagster chart. Default: infrastructure/kubernetes/dagster/values.yaml of this repository."
  type        = string
  default     = null

  validation {
    condition     = var.dagster_values_file == null || can(yamldecode(file(var.dagster_values_file)))
    error_message = "dagster_values_file: expected the path of a YAML file."
  }
}

variable "support_values_file" {
  description = "Your values of lakehouse-support, such as the networks of Trino and Airbyte. Default: none beyond those from here."
  type        = string
  default     = null

  validation {
    condition     = var.support_values_file == null || can(yamldecode(file(var.support_values_file)))
    error_message = "support_values_file: expected the path of a YAML file."
  }
}
