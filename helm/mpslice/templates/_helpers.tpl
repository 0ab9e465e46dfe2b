{{/* Labels that every object of the release carries; call with (list $ "component"). */}}
{{- define "mpslice.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: mpslice
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels and annotations of an object; call with (list $ "component" $own), where $own may be left out
and has labels and annotations of the object alone, which go before the release's. */}}
{{- define "mpslice.metadata" -}}
{{- $root := index . 0 }}{{ $own := rest (rest .) | first | default dict }}
{{- $labels := fromYaml (include "mpslice.labels" (list $root (index . 1))) -}}
labels: {{- toYaml (mustMergeOverwrite $labels ($own.labels | default dict)) | nindent 2 }}
{{- with mustMergeOverwrite (dict) $root.Values.commonAnnotations ($own.annotations | default dict) }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What pods of a component are chosen by; it can never change. Call with (list $ "component"). */}}
{{- define "mpslice.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "mpslice.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{/* The head of a pod template; call with (list $ "component" $values). */}}
{{- define "mpslice.podMetadata" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $values := index . 2 }}
{{- /* No version: an upgrade that changes nothing of a pod must not replace it. */}}
{{- $ours := fromYaml (include "mpslice.selector" (list $root $component)) }}
{{- $_ := set $ours "app.kubernetes.io/name" "mpslice" }}
{{- if has $component (list "webhook" "planner" "nodeagent" "mps") }}
{{- $_ := set $ours "mpslice.io/scraped-by" (has $component (list "webhook" "planner") | ternary "service" "pod") }}
{{- end -}}
labels: {{- toYaml (mustMergeOverwrite (dict) $root.Values.commonLabels $values.podLabels $ours) | nindent 2 }}
annotations:
  {{- toYaml (mustMergeOverwrite (dict "kubectl.kubernetes.io/default-container" $component) $values.podAnnotations) | nindent 2 }}
{{- end }}

{{/* The account that a component's pods have; call with (list $ "component"). */}}
{{- define "mpslice.serviceAccountName" -}}
{{- $key := eq (index . 1) "nodeagent" | ternary "nodeAgent" (index . 1) -}}
{{- $values := index (index . 0).Values $key | default dict -}}
{{- dig "serviceAccount" "name" "" $values | default (printf "mpslice-%s" (index . 1)) -}}
{{- end }}

{{/* Its name as the API server knows it. */}}
{{- define "mpslice.userName" -}}
system:serviceaccount:{{ (index . 0).Release.Namespace }}:{{ include "mpslice.serviceAccountName" . }}
{{- end }}

{{/* Account, rank and place of a pod; call with (list $ "component" $values $priorityClass $nodeSelector),
the node labels that the chart asks for itself, which may be left out. */}}
{{- define "mpslice.scheduling" -}}
{{- $root := index . 0 }}{{ $component := index . 1 }}{{ $values := index . 2 }}
{{- $nodes := mustMergeOverwrite (dict "kubernetes.io/os" "linux") $values.nodeSelector }}
{{- range rest (rest (rest (rest .))) }}{{ $nodes = mustMergeOverwrite $nodes . }}{{ end -}}
serviceAccountName: {{ include "mpslice.serviceAccountName" (list $root $component) }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName | default ($root.Values.priorityClasses.create | ternary (index . 3) "") }}
priorityClassName: {{ . }}
{{- end }}
nodeSelector: {{- toYaml $nodes | nindent 2 }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if has $component (list "webhook" "planner") }}
affinity: {{- include "mpslice.affinity" (list $root $component $values) | nindent 2 }}
{{- else }}
{{- with $values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with $values.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- /* Without a selector a constraint counts no pod at all. */}}
  {{- $own := dict "labelSelector" (dict "matchLabels" (fromYaml (include "mpslice.selector" (list $root $component)))) }}
  - {{- toYaml (mustMergeOverwrite $own .) | nindent 4 }}
  {{- end }}
{{- end }}
{{- with $values.dnsPolicy }}
dnsPolicy: {{ . }}
{{- end }}
{{- with $values.dnsConfig }}
dnsConfig: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where they can, replicas keep apart and off nodes with slices, which are drained and fail for reasons of
their own; call with (list $ "component" $values). */}}
{{- define "mpslice.affinity" -}}
{{- $values := index . 2 -}}
{{- if $values.affinity }}
{{- toYaml $values.affinity }}
{{- else -}}
nodeAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    - weight: 100
      preference:
        matchExpressions:
          - {key: mpslice.io/managed, operator: DoesNotExist}
podAntiAffinity:
  preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $weight, $key := dict "100" "kubernetes.io/hostname" "50" "topology.kubernetes.io/zone" }}
    - weight: {{ $weight }}
      podAffinityTerm:
        topologyKey: {{ $key }}
        labelSelector:
          matchLabels: {{- include "mpslice.selector" (list (index $ 0) (index $ 1)) | nindent 12 }}
    {{- end }}
{{- end }}
{{- end }}

{{/* Pod Security `restricted`, of a pod and of a container; call with the component's values. */}}
{{- define "mpslice.restrictedPod" -}}
{{- $ours := dict "runAsNonRoot" true "runAsUser" 65532 "runAsGroup" 65532 "fsGroup" 65532 "seccompProfile" (dict "type" "RuntimeDefault") -}}
{{- toYaml (mergeOverwrite $ours .podSecurityContext) }}
{{- end }}
{{- define "mpslice.restrictedContainer" -}}
{{- $ours := dict "allowPrivilegeEscalation" false "readOnlyRootFilesystem" true "capabilities" (dict "drop" (list "ALL")) -}}
{{- toYaml (mergeOverwrite $ours .securityContext) }}
{{- end }}

{{/* Root with every device, for who opens GPUs that no runtime hands to it; call with values. */}}
{{- define "mpslice.privilegedContainer" -}}
{{- toYaml (mergeOverwrite (dict "privileged" true "readOnlyRootFilesystem" true) .securityContext) }}
{{- end }}

{{/* How a container gets the driver: from NVIDIA's runtime by variables, or from the host. */}}
{{- define "mpslice.driverEnvironment" -}}
{{- if not .Values.driverRoot -}}
- {name: NVIDIA_VISIBLE_DEVICES, value: all}
- {name: NVIDIA_DRIVER_CAPABILITIES, value: "compute,utility"}
{{- end -}}
{{- end }}
{{- define "mpslice.driverMount" -}}
{{- if .Values.driverRoot -}}
# A driver container mounts its root there later, and anew.
- {name: driver-root, mountPath: /driver-root, readOnly: true, mountPropagation: HostToContainer}
{{- end -}}
{{- end }}
{{- define "mpslice.driverVolume" -}}
{{- if .Values.driverRoot -}}
- name: driver-root
  hostPath: {path: {{ .Values.driverRoot }}, type: Directory}
{{- end -}}
{{- end }}

{{/* What every container has; call with (list $ $values). */}}
{{- define "mpslice.container" -}}
{{- $root := index . 0 }}{{ $values := index . 1 -}}
image: {{ include "mpslice.image" $root }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
resources: {{- toYaml $values.resources | nindent 2 }}
terminationMessagePolicy: FallbackToLogsOnError
{{- end }}

{{- define "mpslice.logLevel" -}}
--log-level={{ (index . 1).logLevel | default (index . 0).Values.logLevel }}
{{- end }}

{{/* Probes on the ops port; call with whether a slow start has to be waited for. */}}
{{- define "mpslice.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 1
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /readyz, port: ops}
  periodSeconds: 2
  timeoutSeconds: 2
livenessProbe:
  httpGet: {path: /healthz, port: ops}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}

{{/* "true" where kinds of the Prometheus operator are to be made. */}}
{{- define "mpslice.monitoring" -}}
{{- $known := .Capabilities.APIVersions.Has "monitoring.coreos.com/v1" -}}
{{- if or (eq .Values.monitoring.enabled "always") (and (eq .Values.monitoring.enabled "auto") $known) -}}
true
{{- end -}}
{{- end }}
