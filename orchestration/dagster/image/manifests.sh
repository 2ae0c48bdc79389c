#!/bin/sh
# Makes the manifests of the image: dbt parses the project once for each target. The Dockerfile runs it in the folder of
# the code location, with its build arguments as variables.
set -eu

if [ -n "${DBT_ENVIRONMENT:-}" ]; then eval "export $DBT_ENVIRONMENT"; fi
if [ -z "${LAKEHOUSE_TARGETS:-}" ]; then
    echo "LAKEHOUSE_TARGETS is empty: name at least one target of profiles.yml." >&2
    exit 1
fi
for target in $LAKEHOUSE_TARGETS; do
    LAKEHOUSE_DBT_TARGET=$target lakehouse manifest && continue
    cat >&2 <<EOF

The image needs a manifest for target \`$target\`, because LAKEHOUSE_TARGETS is "$LAKEHOUSE_TARGETS". The build arguments
are LAKEHOUSE_TARGETS, DBT_ENVIRONMENT, LAKEHOUSE_DBT_VARS and LAKEHOUSE_TRINO_CATALOG; for example, if your profile has
a target prod and your models read SHOP_SCHEMA:
  make image BUILD="--build-arg LAKEHOUSE_TARGETS=prod --build-arg DBT_ENVIRONMENT=SHOP_SCHEMA=prod"
docs/your-project.md describes them under "In an image".
EOF
    exit 1
done
