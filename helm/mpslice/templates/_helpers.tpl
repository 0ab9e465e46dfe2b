{{/* Labels that every object of the release carries; call with (list $ "component"). */}}
{{- define "mpslice.labels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: mpslice
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version }}
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
{{- $root := index . 0 }}{{ $values := index . 2 -}}
labels:
  {{- /* No version: an upgrade that changes nothing of a pod must not replace it. */}}
  app.kubernetes.io/name: mpslice
  {{- include "mpslice.selector" (list $root (index . 1)) | nindent 2 }}
  mpslice.io/scraped-by: {{ has (index . 1) (list "webhook" "planner") | ternary "service" "pod" }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ index . 1 }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Whose it is, where it goes and what it ranks; call with (list $ $values $account $priorityClass). */}}
{{- define "mpslice.scheduling" -}}
{{- $root := index . 0 }}{{ $values := index . 1 -}}
serviceAccountName: {{ index . 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- if or $values.priorityClassName $root.Values.priorityClasses.create }}
priorityClassName: {{ $values.priorityClassName | default (index . 3) }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Replicas keep apart where they can; call with (list $ "component" $values). */}}
{{- define "mpslice.affinity" -}}
{{- $values := index . 2 -}}
{{- if $values.affinity }}
{{- toYaml $values.affinity }}
{{- else -}}
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
