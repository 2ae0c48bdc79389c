{{- /* Names: of this release, and of the objects of the official chart's release. */ -}}

{{- define "support.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- /* As the official chart's dagster.fullname. */}}
{{- define "support.dagster.fullname" -}}
{{- $release := .Values.dagster.release -}}
{{- .Values.dagster.fullname | default (ternary $release (printf "%s-dagster" $release) (contains "dagster" $release)) | trunc 63 | trimSuffix "-" -}}
{{- end }}

{{- define "support.dagster.configMap" -}}
{{- .Values.dagster.configMap | default (printf "%s-instance" (include "support.dagster.fullname" .)) -}}
{{- end }}

{{- define "support.dagster.daemon" -}}
{{- include "support.dagster.fullname" . }}-daemon
{{- end }}

{{- /* The official chart puts the release's name in front of its `nameOverride`, dagster-webserver. */}}
{{- define "support.dagster.webserver" -}}
{{- .Values.dagster.webserver.service | default (printf "%s-dagster-webserver" .Values.dagster.release | trunc 63 | trimSuffix "-") -}}
{{- end }}

{{- define "support.dagster.readOnlyWebserver" -}}
{{- include "support.dagster.webserver" . }}-read-only
{{- end }}

{{- define "support.runsNamespace" -}}
{{- .Values.dagster.runs.namespace | default .Release.Namespace -}}
{{- end }}

{{- /* "true" if runs have a namespace of their own. */}}
{{- define "support.runsElsewhere" -}}
{{- if ne (include "support.runsNamespace" .) .Release.Namespace }}true{{ end -}}
{{- end }}

{{- define "support.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end -}}
{{- end }}

{{- /* Pods of runs, and of their steps with `k8s_job_executor`, as dagster-k8s labels them. */}}
{{- define "support.runsSelector" -}}
- {key: app.kubernetes.io/component, operator: In, values: [run_worker, step_worker]}
{{- end }}

{{- define "support.dagsterComponents" -}}
- {key: component, operator: In, values: [dagster-webserver, dagster-webserver-read-only, dagster-daemon]}
{{- end }}
