{{- define "support.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Metadata of an object. root, name; optional: namespace, labels, annotations. */}}
{{- define "support.metadata" -}}
name: {{ .name }}
namespace: {{ .namespace | default .root.Release.Namespace }}
labels: {{- mergeOverwrite (deepCopy .root.Values.commonLabels) (.labels | default dict) (include "support.labels" .root | fromYaml) | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy .root.Values.commonAnnotations) (.annotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What selects the pods of one of this chart's workloads. root, component. */}}
{{- define "support.selector" -}}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* What selects pods of the official chart's release, by their component. root, component. */}}
{{- define "support.dagsterSelector" -}}
app.kubernetes.io/instance: {{ .root.Values.dagster.release }}
component: {{ .component }}
{{- end }}

{{- /*
Labels and annotations of a pod. root, component, workload; optional: labels.
The labels that select pods win over a user's.
*/}}
{{- define "support.podMetadata" -}}
{{- $values := .root.Values -}}
{{- $selector := include "support.selector" . | fromYaml -}}
labels: {{- mergeOverwrite (deepCopy $values.commonLabels) (deepCopy $values.podDefaults.podLabels) (deepCopy (.workload.podLabels | default dict)) (.labels | default dict) (include "support.labels" .root | fromYaml) $selector | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy $values.commonAnnotations) (deepCopy $values.podDefaults.podAnnotations) (deepCopy (.workload.podAnnotations | default dict)) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /*
Specification of a pod. root, component, workload, containers, volumes (both as text);
optional: initContainers (as text), serviceAccount, restartPolicy.
*/}}
{{- define "support.podSpec" -}}
{{- $values := .root.Values -}}
{{- $defaults := $values.podDefaults -}}
{{- $workload := .workload -}}
{{- with .restartPolicy }}
restartPolicy: {{ . }}
{{- end }}
{{- with .serviceAccount }}
serviceAccountName: {{ . }}
{{- else }}
automountServiceAccountToken: false
{{- end }}
# A Service of the namespace called lakehouse-trino would set LAKEHOUSE_TRINO_PORT.
enableServiceLinks: false
{{- with $values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- mergeOverwrite (deepCopy $defaults.podSecurityContext) (deepCopy ($workload.podSecurityContext | default dict)) | toYaml | nindent 2 }}
{{- with $workload.priorityClassName | default $defaults.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with mergeOverwrite (deepCopy $defaults.nodeSelector) (deepCopy ($workload.nodeSelector | default dict)) }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $workload.tolerations | default $defaults.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $workload.affinity | default $defaults.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $workload.topologySpreadConstraints | default $defaults.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "support.selector" $ | fromYaml)) }}
  {{- range . }}
  - {{- merge (deepCopy .) (ternary (dict) $own (hasKey . "labelSelector")) | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- with .initContainers }}
initContainers: {{- . | nindent 2 }}
{{- end }}
containers: {{- .containers | nindent 2 }}
{{- with .volumes }}
volumes: {{- . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* Image and security of a container. root, workload, image. */}}
{{- define "support.container" -}}
image: {{ include "support.image" .image | quote }}
imagePullPolicy: {{ .image.pullPolicy }}
securityContext: {{- mergeOverwrite (deepCopy .root.Values.podDefaults.securityContext) (deepCopy (.workload.securityContext | default dict)) | toYaml | nindent 2 }}
resources: {{- .resources | default .workload.resources | toYaml | nindent 2 }}
{{- end }}

{{- /* How libpq encrypts connections; dagster.yaml wins over it where it has parameters of its own. */}}
{{- define "support.tlsEnv" -}}
{{- $postgresql := .Values.postgresql -}}
- {name: PGSSLMODE, value: {{ $postgresql.sslmode }}}
{{- if or $postgresql.ca.configMap $postgresql.ca.secret }}
- {name: PGSSLROOTCERT, value: {{ printf "%s/%s" $postgresql.ca.mountPath $postgresql.ca.key | quote }}}
{{- end }}
{{- end }}

{{- define "support.tlsMount" -}}
{{- if or .Values.postgresql.ca.configMap .Values.postgresql.ca.secret }}
- {name: postgresql-ca, mountPath: {{ .Values.postgresql.ca.mountPath }}, readOnly: true}
{{- end }}
{{- end }}

{{- define "support.tlsVolume" -}}
{{- with .Values.postgresql.ca.configMap }}
- {name: postgresql-ca, configMap: {name: {{ . }}}}
{{- else }}
{{- with .Values.postgresql.ca.secret }}
- {name: postgresql-ca, secret: {secretName: {{ . }}}}
{{- end }}
{{- end }}
{{- end }}

{{- define "support.passwordRef" -}}
secretKeyRef: {{- toYaml .Values.postgresql.passwordSecret | nindent 2 }}
{{- end }}

{{- /* A container that opens Dagster's instance, as the official chart's pods do. root, workload. */}}
{{- define "support.instanceContainer" -}}
{{- $values := .root.Values -}}
{{ include "support.container" (dict "root" .root "workload" .workload "image" $values.image) }}
env:
  - {name: DAGSTER_HOME, value: {{ $values.dagster.home }}}
  - name: DAGSTER_PG_PASSWORD
    valueFrom: {{- include "support.passwordRef" .root | nindent 6 }}
  {{- include "support.tlsEnv" .root | nindent 2 }}
  {{- with .workload.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumeMounts:
  # Not by subPath: a running pod would keep the file that it started with.
  - {name: instance, mountPath: {{ $values.dagster.home }}, readOnly: true}
  - {name: scratch, mountPath: /tmp}
  {{- with include "support.tlsMount" .root }}{{ trim . | nindent 2 }}{{ end }}
{{- end }}

{{- define "support.instanceVolumes" -}}
- name: instance
  configMap: {name: {{ include "support.dagster.configMap" . }}}
- name: scratch
  emptyDir: {}
{{- include "support.tlsVolume" . }}
{{- end }}

{{- /* Seconds that a finished Job of a workload is kept. root, workload. */}}
{{- define "support.ttl" -}}
{{- .workload.ttlSecondsAfterFinished | default .root.Values.podDefaults.ttlSecondsAfterFinished -}}
{{- end }}

{{- /* The container of a CronJob. root, component, workload, args. */}}
{{- define "support.upkeepContainer" -}}
- name: {{ .component }}
  {{- include "support.instanceContainer" . | nindent 2 }}
  args: {{- toYaml .args | nindent 4 }}
{{- end }}
