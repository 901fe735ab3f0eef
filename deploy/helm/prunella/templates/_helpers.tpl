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
