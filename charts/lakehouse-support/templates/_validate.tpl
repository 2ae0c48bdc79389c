{{- /*
All that is wrong with the values, each as one sentence that names the key, so that one attempt shows everything.
`lookup` finds nothing in `helm template`, nor before the namespace exists: what it checks is checked by an install.
*/ -}}

{{- define "support.validate" -}}
{{- $found := list }}
{{- range $line := include "support.problems" . | splitList "\n" }}
{{- with trim $line }}{{ $found = append $found (printf "- %s" .) }}{{ end }}
{{- end }}
{{- if $found }}
{{- fail (printf "\n\nThese values need a change:\n%s\n" (join "\n" $found)) }}
{{- end }}
{{- end }}

{{- define "support.problems" -}}
{{ include "support.missingValues" . }}
{{ include "support.missingApis" . }}
{{ include "support.loginProblems" (dict "root" . "key" "login" "login" .Values.login) }}
{{ include "support.loginProblems" (dict "root" . "key" "readOnlyLogin" "login" .Values.readOnlyLogin) }}
{{- if lookup "v1" "ServiceAccount" .Release.Namespace "default" }}
{{ include "support.missingObjects" . }}
{{ include "support.foreignSecret" . }}
{{- end }}
{{- end }}

{{- /* "true" if a pod of this chart runs the image of the code location; `helm test` always does. */}}
{{- define "support.opensInstance" -}}
{{- if or .Values.instance.enabled .Values.upkeep.prune.enabled .Values.upkeep.reap.enabled .Values.monitoring.enabled .Values.webhook.enabled }}true{{ end -}}
{{- end }}

{{- define "support.missingValues" -}}
{{- $values := .Values }}
{{- $instance := $values.instance }}
{{- $backup := and $instance.enabled $instance.migrate $instance.backup.enabled }}
{{- if not (and $values.image.repository (or $values.image.tag $values.image.digest)) }}
image: set image.repository and image.tag (or image.digest) to the image of the code location.
{{- end }}
{{- if and $backup (not $values.postgresql.host) }}
postgresql.host: set the server with Dagster's database, which is backed up before each migration; or set instance.backup.enabled to false if it has backups of its own.
{{- end }}
{{- if and $instance.enabled $instance.backup.restore (not $backup) }}
instance.backup.restore: needs instance.migrate and instance.backup.enabled, because the dump is on their volume.
{{- end }}
{{- if and $instance.backup.restore (not $instance.enabled) }}
instance.backup.restore: needs instance.enabled, whose Job restores the dump.
{{- end }}
{{- if and $values.postgresql.ca.configMap $values.postgresql.ca.secret }}
postgresql.ca: set configMap or secret, not both.
{{- end }}
{{- if and (has $values.postgresql.sslmode (list "verify-ca" "verify-full")) (not (or $values.postgresql.ca.configMap $values.postgresql.ca.secret)) }}
postgresql.ca: sslmode {{ $values.postgresql.sslmode }} needs the certificate of the CA; set postgresql.ca.configMap or postgresql.ca.secret to an object that has it under the key {{ $values.postgresql.ca.key }}.
{{- end }}
{{- if eq $values.secrets.from "external" }}
{{- if not $values.secrets.external.store.name }}
secrets.external.store.name: set the SecretStore or ClusterSecretStore to read from.
{{- end }}
{{- if not $values.secrets.external.keys }}
secrets.external.keys: name at least one variable and its key in the vault; without one, the Secret {{ $values.secrets.name }} would be empty.
{{- end }}
{{- end }}
{{- if and $values.secrets.data (ne $values.secrets.from "values") }}
secrets.data: is not used, because secrets.from is {{ $values.secrets.from }}; remove it, or set secrets.from to values.
{{- end }}
{{- if and $values.secrets.external.keys (ne $values.secrets.from "external") }}
secrets.external.keys: are not used, because secrets.from is {{ $values.secrets.from }}; remove them, or set secrets.from to external.
{{- end }}
{{- if and $values.webhook.enabled $values.webhook.ingress.enabled }}
{{- if not $values.webhook.ingress.host }}
webhook.ingress.host: set the name under which other systems reach the webhook.
{{- end }}
{{- if not $values.webhook.ingress.tlsSecret }}
webhook.ingress.tlsSecret: set the Secret with the certificate of the host; each request contains the token.
{{- end }}
{{- end }}
{{- if and $values.webhook.ingress.enabled (not $values.webhook.enabled) }}
webhook.ingress.enabled: needs webhook.enabled.
{{- end }}
{{- if $values.networkPolicies.enabled }}
{{- $egress := $values.networkPolicies.egress }}
{{- if not (or $values.networkPolicies.dns.cidrs $values.networkPolicies.dns.peers) }}
networkPolicies.dns: name the cluster's DNS in cidrs or peers; no pod could resolve a name.
{{- end }}
{{- if not (or $egress.postgresql.cidrs $egress.postgresql.peers) }}
networkPolicies.egress.postgresql: name the server with Dagster's database in cidrs or peers; no pod of Dagster could start.
{{- end }}
{{- if not (or $egress.kubernetesApi.cidrs $egress.kubernetesApi.peers) }}
networkPolicies.egress.kubernetesApi: name the API server in cidrs, so that the daemon can start runs; `kubectl get endpointslices -n default -l kubernetes.io/service-name=kubernetes` prints its addresses.
{{- end }}
{{- if and (or $values.login.enabled $values.readOnlyLogin.enabled) (not (or $egress.identityProvider.cidrs $egress.identityProvider.peers)) }}
networkPolicies.egress.identityProvider: name the network of the login's provider in cidrs or peers; for one on the internet, cidrs: [0.0.0.0/0].
{{- end }}
{{- end }}
{{- end }}

{{- /* Kinds of operators. A cluster always lists its kinds; `helm template` knows only those it is given. */}}
{{- define "support.missingApis" -}}
{{- if and (eq .Values.secrets.from "external") (not (include "support.externalSecretVersion" .)) }}
{{ include "support.missingApi" (dict "kind" "external-secrets.io/v1/ExternalSecret" "operator" "the External Secrets Operator" "switch" "secrets.from" "change" "set secrets.from to none or values") }}
{{- end }}
{{- range $switch, $kind := dict "podMonitor" "PodMonitor" "rules" "PrometheusRule" }}
{{- $api := printf "monitoring.coreos.com/v1/%s" $kind }}
{{- if and $.Values.monitoring.enabled (index $.Values.monitoring $switch "enabled") (not ($.Capabilities.APIVersions.Has $api)) }}
{{ include "support.missingApi" (dict "kind" $api "operator" "the Prometheus Operator" "switch" (printf "monitoring.%s.enabled" $switch) "change" (printf "set monitoring.%s.enabled to false" $switch)) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "support.missingApi" -}}
{{ .switch }}: this cluster does not know {{ .kind }}. Install {{ .operator }} first, or {{ .change }}. `helm template` asks no cluster and needs --api-versions {{ .kind }}.
{{- end }}

{{- define "support.externalSecretVersion" -}}
{{- range list "external-secrets.io/v1beta1" "external-secrets.io/v1" | reverse }}
{{- if $.Capabilities.APIVersions.Has (printf "%s/ExternalSecret" .) }}{{ . }}{{ break }}{{ end }}
{{- end }}
{{- end }}

{{- define "support.loginProblems" -}}
{{- $login := .login }}
{{- $key := .key }}
{{- if $login.enabled }}
{{- if not $login.host }}
{{ $key }}.host: set the name under which users reach Dagster.
{{- end }}
{{- if not $login.existingSecret }}
{{ $key }}.existingSecret: set a Secret with OAUTH2_PROXY_CLIENT_ID, OAUTH2_PROXY_CLIENT_SECRET and OAUTH2_PROXY_COOKIE_SECRET.
{{- end }}
{{- if not $login.tlsSecret }}
{{ $key }}.tlsSecret: set the Secret with the certificate of the host; a login needs TLS.
{{- end }}
{{- if and (has $login.provider (list "adfs" "azure" "cidaas" "entra-id" "gitlab" "keycloak-oidc" "oidc")) (not $login.issuerUrl) }}
{{ $key }}.issuerUrl: set the address of the OpenID Connect provider, which {{ $login.provider }} needs.
{{- end }}
{{- if not $login.emailDomains }}
{{ $key }}.emailDomains: set the domains whose addresses may log in; ['*'] admits every address that the provider knows.
{{- end }}
{{- $restriction := "^--(authenticated-emails-file|allowed-group|bitbucket-(repository|team)|github-(org|repo|team|user)|gitlab-(group|project)s?|google-group)=" }}
{{- $public := or (has $login.provider (list "bitbucket" "digitalocean" "facebook" "github" "google" "linkedin" "login.gov")) (regexMatch "^https://(gitlab\\.com|accounts\\.google\\.com)/?$" $login.issuerUrl) }}
{{- if and (has "*" $login.emailDomains) $public (not (include "support.restricted" (dict "args" $login.extraArgs "pattern" $restriction))) }}
{{ $key }}.emailDomains: ['*'] admits everybody with an account at {{ $login.provider }}; name your domains, or restrict the login in {{ $key }}.extraArgs, for example with --github-org, --google-group or --authenticated-emails-file.
{{- end }}
{{- range $login.extraArgs }}
{{- if regexMatch "^--(client-secret|cookie-secret)(=|$)" . }}
{{ $key }}.extraArgs: {{ regexReplaceAll "=.*" . "" }} would put a secret into the manifest; put it into {{ $key }}.existingSecret.
{{- end }}
{{- end }}
{{- if and $.root.Values.login.enabled (eq $key "readOnlyLogin") (eq $login.host $.root.Values.login.host) $login.host }}
readOnlyLogin.host: must differ from login.host.
{{- end }}
{{- end }}
{{- end }}

{{- define "support.restricted" -}}
{{- range .args }}{{ if regexMatch $.pattern . }}true{{ break }}{{ end }}{{ end -}}
{{- end }}

{{- /* Objects that pods would wait for without an error of Helm's. */}}
{{- define "support.missingObjects" -}}
{{- $namespace := .Release.Namespace }}
{{- $values := .Values }}
{{- if include "support.opensInstance" . }}
{{- $name := include "support.dagster.configMap" . }}
{{- if not (lookup "v1" "ConfigMap" $namespace $name) }}
dagster.release: there is no ConfigMap {{ $name }} in the namespace {{ $namespace }}. Install the Dagster chart first; if its release is not called {{ $values.dagster.release }}, set dagster.release, and dagster.fullname if it has a fullnameOverride.
{{- end }}
{{ include "support.missingKey" (dict "kind" "Secret" "namespace" $namespace "name" $values.postgresql.passwordSecret.name "keys" (list $values.postgresql.passwordSecret.key) "setting" "postgresql.passwordSecret") }}
{{- range $kind, $name := dict "ConfigMap" $values.postgresql.ca.configMap "Secret" $values.postgresql.ca.secret }}
{{- if $name }}
{{ include "support.missingKey" (dict "kind" $kind "namespace" $namespace "name" $name "keys" (list $values.postgresql.ca.key) "setting" "postgresql.ca") }}
{{- end }}
{{- end }}
{{- end }}
{{- with $values.instance.backup.existingClaim }}
{{- if not (lookup "v1" "PersistentVolumeClaim" $namespace .) }}
instance.backup.existingClaim: there is no PersistentVolumeClaim {{ . }} in the namespace {{ $namespace }}.
{{- end }}
{{- end }}
{{- if $values.webhook.enabled }}
{{ include "support.missingKey" (dict "kind" "Secret" "namespace" $namespace "name" $values.webhook.tokenSecret.name "keys" (list $values.webhook.tokenSecret.key) "setting" "webhook.tokenSecret") }}
{{- $environment := include "support.webhook.configMap" . }}
{{- if not (lookup "v1" "ConfigMap" $namespace $environment) }}
webhook.configMap: there is no ConfigMap {{ $environment }} in the namespace {{ $namespace }}; set it to the one with the environment of the code server, which the Dagster chart makes.
{{- end }}
{{- end }}
{{- range $key := list "login" "readOnlyLogin" }}
{{- $login := index $values $key }}
{{- if and $login.enabled $login.existingSecret }}
{{- $env := list }}
{{- range $login.extraEnv }}{{ $env = append $env .name }}{{ end }}
{{ include "support.missingKey" (dict "kind" "Secret" "namespace" $namespace "name" $login.existingSecret "setting" (printf "%s.existingSecret" $key) "keys" (without (list "OAUTH2_PROXY_CLIENT_ID" "OAUTH2_PROXY_CLIENT_SECRET" "OAUTH2_PROXY_COOKIE_SECRET") $env | uniq)) }}
{{- end }}
{{- end }}
{{- if and $values.readOnlyLogin.enabled (not (lookup "v1" "Service" $namespace (include "support.dagster.readOnlyWebserver" .))) }}
readOnlyLogin.enabled: there is no Service {{ include "support.dagster.readOnlyWebserver" . }} in the namespace {{ $namespace }}. Set dagsterWebserver.enableReadOnly to true in the values of the Dagster chart, and upgrade that release first.
{{- end }}
{{- if and $values.login.enabled (not (lookup "v1" "Service" $namespace (include "support.dagster.webserver" .))) }}
login.enabled: there is no Service {{ include "support.dagster.webserver" . }} in the namespace {{ $namespace }}. If the values of the Dagster chart rename it, set dagster.webserver.service.
{{- end }}
{{- end }}

{{- define "support.missingKey" -}}
{{- $object := lookup "v1" .kind .namespace .name }}
{{- if not $object }}
{{ .setting }}: there is no {{ .kind }} {{ .name }} in the namespace {{ .namespace }}; make it first, with {{ join ", " .keys }}.
{{- else }}
{{- range $key := .keys }}
{{- if not (hasKey ($object.data | default dict) $key) }}
{{ $.setting }}: the {{ $.kind }} {{ $.name }} does not have the key {{ $key }}.
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A Secret that another release or user created must not be taken over. */}}
{{- define "support.foreignSecret" -}}
{{- $secrets := .Values.secrets }}
{{- range $namespace := list .Release.Namespace (include "support.runsNamespace" .) | uniq }}
{{- $existing := ternary (dict) (lookup "v1" "Secret" $namespace $secrets.name) (eq $secrets.from "none") }}
{{- if $existing }}
{{- $annotations := $existing.metadata.annotations | default dict }}
{{- $ours := and (eq (get $annotations "meta.helm.sh/release-name") $.Release.Name) (eq (get $annotations "meta.helm.sh/release-namespace") $.Release.Namespace) }}
{{- $external := false }}
{{- range $existing.metadata.ownerReferences }}{{ if eq .kind "ExternalSecret" }}{{ $external = true }}{{ end }}{{ end }}
{{- if and (eq $secrets.from "values") (not $ours) }}
secrets.from: values would replace the Secret {{ $secrets.name }} in the namespace {{ $namespace }}, which this release did not make. Set secrets.from to none to keep it, choose another secrets.name, or delete it.
{{- else if and (eq $secrets.from "external") (not (or $ours $external)) }}
secrets.from: external would replace the Secret {{ $secrets.name }} in the namespace {{ $namespace }}, which no ExternalSecret made. Set secrets.from to none to keep it, choose another secrets.name, or delete it.
{{- end }}
{{- end }}
{{- end }}
{{- end }}
