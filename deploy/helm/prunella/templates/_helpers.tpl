{{- define "prunella.name" -}}
{{- $name := .Values.nameOverride | default .Release.Name -}}
{{- contains "prunella" $name | ternary $name (printf "%s-prunella" $name) | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- define "prunella.selector" -}}
app.kubernetes.io/name: prunella
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "prunella.metadata" -}}
name: {{ include "prunella.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "prunella.selector" . | nindent 2 }}
  app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .Release.Service }}
  helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "prunella.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ .digest | empty | ternary (printf ":%s" (.tag | default $.Chart.AppVersion)) (printf "@%s" .digest) }}
{{- end -}}
{{- end }}

{{- define "prunella.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (include "prunella.name" .) "default") -}}
{{- end }}

{{/* the labels that a ServiceMonitor gives to the series of this release */}}
{{- define "prunella.series" -}}
namespace={{ .Release.Namespace | quote }},service={{ include "prunella.name" . | quote }}
{{- end }}

{{/* what the schema cannot say, or not clearly */}}
{{- define "prunella.check" -}}
{{- with .Values.autoscaling }}
{{- if and (ne .kind "none") (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas is %v and maxReplicas %v: wanted one that is not greater" .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- range .Values.extraEnv }}
{{- if hasPrefix "PRUNELLA_" .name }}
{{- fail (printf "extraEnv has %s: settings belong into settings, keys into apiKey.secretName and adminToken.secretName" .name) }}
{{- end }}
{{- end }}
{{- range $name, $_ := .Values.podLabels }}
{{- if has $name (list "app.kubernetes.io/name" "app.kubernetes.io/instance") }}
{{- fail (printf "podLabels has %s, by which the Service chooses the pods: wanted other labels" $name) }}
{{- end }}
{{- end }}
{{- if eq (int .Values.settings.port_grpc) 3000 }}
{{- fail "settings.port_grpc is 3000, the port of HTTP: wanted another one" }}
{{- end }}
{{- end }}

{{/* the port of the S3 service, if it is another than 443 */}}
{{- define "prunella.s3Port" -}}
{{- with .Values.model.s3.endpoint -}}
{{- $written := regexFind ":[0-9]+$" (trimSuffix "/" .) | trimPrefix ":" -}}
{{- $port := $written | default (hasPrefix "http:" . | ternary "80" "443") -}}
{{- if ne $port "443" }}{{ $port }}{{ end -}}
{{- end -}}
{{- end }}

{{- define "prunella.podSecurity" -}}
{{- $own := dict "runAsNonRoot" true "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (merge (deepCopy .Values.podSecurityContext) $own) }}
{{- end }}

{{- define "prunella.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* toJson: a large number as text is 2000000, not 2e+06 */}}
{{- define "prunella.env" -}}
{{- range $name, $value := .Values.settings }}
- name: PRUNELLA_{{ upper $name }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- if ne .Values.model.source "baked" }}
- name: PRUNELLA_BUNDLE
  value: /bundle{{ with (get .Values.model .Values.model.source).path }}/{{ trimAll "/" . }}{{ end }}
{{- end }}
{{- if and .Values.gpu.enabled (not (hasKey .Values.settings "device")) }}
- name: PRUNELLA_DEVICE
  value: cuda
- name: PRUNELLA_REQUIRE_DEVICE
  value: "true"
{{- end }}
{{- include "prunella.apiKey" . }}
{{- with .Values.adminToken }}{{ if .secretName }}
- name: PRUNELLA_ADMIN_TOKEN
  valueFrom:
    secretKeyRef: {name: {{ .secretName }}, key: {{ .key }}}
{{- end }}{{ end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "prunella.apiKey" -}}
{{- with .Values.apiKey }}{{ if .secretName }}
- name: PRUNELLA_API_KEY
  valueFrom:
    secretKeyRef: {name: {{ .secretName }}, key: {{ .key }}}
{{- end }}{{ end }}
{{- end }}
