{{- define "asr-operator.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* At most 52 characters: with the longest suffix a name has 63. */}}
{{- define "asr-operator.fullname" -}}
{{- $name := include "asr-operator.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Of objects that belong to no namespace: two releases in two namespaces do not meet. */}}
{{- define "asr-operator.clusterName" -}}
{{- printf "%s:%s" (include "asr-operator.namespace" .) (include "asr-operator.fullname" .) }}
{{- end }}

{{- define "asr-operator.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{- define "asr-operator.selectorLabels" -}}
app.kubernetes.io/name: {{ include "asr-operator.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of every object; those of the chart go before commonLabels. */}}
{{- define "asr-operator.labels" -}}
{{- $labels := include "asr-operator.selectorLabels" . | fromYaml }}
{{- $_ := set $labels "app.kubernetes.io/version" .Chart.AppVersion }}
{{- $_ := set $labels "app.kubernetes.io/component" "operator" }}
{{- $_ := set $labels "app.kubernetes.io/part-of" "asr-operator" }}
{{- $_ := set $labels "app.kubernetes.io/managed-by" .Release.Service }}
{{- $_ := set $labels "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-") }}
{{- toYaml (merge $labels .Values.commonLabels) }}
{{- end }}

{{/* Metadata of an object: dict "root" $ "name" ..., optionally "namespace", "labels", "annotations". */}}
{{- define "asr-operator.metadata" -}}
{{- $annotations := merge (dict) (default dict .annotations) .root.Values.commonAnnotations -}}
name: {{ .name | quote }}
{{- with .namespace }}
namespace: {{ . | quote }}
{{- end }}
labels:
  {{- $fixed := include "asr-operator.labels" .root | fromYaml }}
  {{- toYaml (merge (dict) $fixed (default dict .labels)) | nindent 2 }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "asr-operator.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "asr-operator.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* An image's name: dict "root" $ "key" "image". */}}
{{- define "asr-operator.image" -}}
{{- $image := index .root.Values .key -}}
{{- if not $image.repository -}}
{{- fail (printf "%s.repository is empty: build the image, push it to your registry, and write its name there; values.yaml says how" .key) -}}
{{- end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .root.Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end }}

{{/* The operator's settings file. */}}
{{- define "asr-operator.settings" -}}
operatorImage: {{ include "asr-operator.image" (dict "root" . "key" "image") | quote }}
builderImage: {{ include "asr-operator.image" (dict "root" . "key" "builderImage") | quote }}
triton:
  images:
    {{- toYaml .Values.triton.images | nindent 4 }}
  apis: {{ .Values.triton.apis }}
namespaces: {{ toJson .Values.namespaces }}
healthPort: 8080
metricsPort: {{ ternary 9090 0 .Values.metrics.enabled }}
{{ toYaml .Values.settings }}
{{- end }}

{{/* All that the operator may do, once: the rules of a ClusterRole, or of a Role in each namespace. */}}
{{- define "asr-operator.rules" -}}
- apiGroups: [asr-operator.dev]
  resources: [asrdeployments]
  verbs: [get, list, watch]
- apiGroups: [asr-operator.dev]
  resources: [asrdeployments/status]
  verbs: [patch]
# Where owners' deletion may be blocked by their children only by who may finalise them (OpenShift).
- apiGroups: [asr-operator.dev]
  resources: [asrdeployments/finalizers]
  verbs: [update]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [get, list, watch, create, patch, delete]
# Kinds that a cluster may not have: whether it has them is learnt by listing them.
- apiGroups: [monitoring.coreos.com]
  resources: [podmonitors]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [keda.sh]
  resources: [scaledobjects]
  verbs: [get, list, watch, create, patch, delete]
# Listed for one Job at a time, where that gets no pod: its events alone say why.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [list, create, patch]
{{- end }}
