{{- define "support.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- /* Pods of the official chart's release, by their component. */}}
{{- define "support.dagster" -}}
app.kubernetes.io/instance: {{ .root.Values.dagster.release }}
component: {{ .component }}
{{- end }}

{{- /* A pod that may reach the webserver. */}}
{{- define "support.asksWebserver" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
lakehouse-support/asks: webserver
{{- end }}

{{- define "support.metrics" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: metrics
{{- end }}

{{- define "support.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "support.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* One egress rule: networks and ports, and protocols other than TCP. */}}
{{- define "support.egress" -}}
- to:
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
    {{- with .peers }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    {{- range $protocol := .protocols | default (list "TCP") }}
    {{- range $.ports }}
    - {protocol: {{ $protocol }}, port: {{ . }}}
    {{- end }}
    {{- end }}
{{- end }}

{{- /* A container that opens Dagster's instance, as the official chart's pods do. */}}
{{- define "support.instanceContainer" -}}
{{- $instance := .Values.instance -}}
image: {{ printf "%s:%s" $instance.image.repository $instance.image.tag | quote }}
imagePullPolicy: {{ $instance.image.pullPolicy }}
env:
  - {name: DAGSTER_HOME, value: /opt/dagster/dagster_home}
  - name: DAGSTER_PG_PASSWORD
    valueFrom:
      secretKeyRef: {{- toYaml $instance.postgresqlSecret | nindent 8 }}
volumeMounts:
  - {name: instance, mountPath: /opt/dagster/dagster_home/dagster.yaml, subPath: dagster.yaml}
  - {name: scratch, mountPath: /tmp}
securityContext: {{- include "support.containerSecurity" . | nindent 2 }}
resources:
  requests: {cpu: 100m, memory: 256Mi}
  limits: {memory: 768Mi}
{{- end }}

{{- define "support.instanceVolumes" -}}
- name: instance
  configMap: {name: {{ .Values.instance.configMap }}}
- name: scratch
  emptyDir: {}
{{- end }}

{{- define "support.pullSecrets" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
