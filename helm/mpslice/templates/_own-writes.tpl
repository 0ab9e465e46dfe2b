{{/*
Parts of the policies that hold a token to the writes of its own program. RBAC cannot: its smallest
unit is a whole object. `dyn` makes a map of an object with a schema, so that every field counts, the
ones of later Kubernetes versions as well.
*/}}

{{/* CEL: whether two maps (old and new) differ at most in keys that `ours`, about k, allows. */}}
{{- define "mpslice.onlyOurs" -}}
{{- $old := index . 0 }}{{ $new := index . 1 }}{{ $ours := index . 2 -}}
{{ $new }}.all(k, {{ $ours }} || (k in {{ $old }} && {{ $old }}[k] == {{ $new }}[k])) &&
{{ $old }}.all(k, {{ $ours }} || k in {{ $new }})
{{- end }}

{{/* CEL: whether the part of the object (such as spec) differs at most in the fields that are listed. */}}
{{- define "mpslice.onlyFields" -}}
{{- $part := index . 0 }}{{ $fields := index . 1 -}}
{{- $old := printf "dyn(oldObject.%s)" $part }}{{ $new := printf "dyn(object.%s)" $part -}}
{{- include "mpslice.onlyOurs" (list $old $new (printf "k in %s" (toJson $fields))) }}
{{- end }}

{{/* The same of its metadata, besides what the API server itself writes there. */}}
{{- define "mpslice.onlyMetadata" -}}
{{- include "mpslice.onlyFields" (list "metadata" (concat (list "managedFields" "resourceVersion" "generation") .)) }}
{{- end }}

{{/* matchConditions: the writes of a service account of the release; call with (list $ "planner"). */}}
{{- define "mpslice.writesOf" -}}
- name: is-written-by-{{ index . 1 }}
  expression: request.userInfo.username == "{{ include "mpslice.userName" . }}"
{{- end }}

{{/* A binding that refuses; call with (list $ "component" "policy"). */}}
{{- define "mpslice.denies" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 2 }}
  {{- include "mpslice.metadata" (list (index . 0) (index . 1)) | nindent 2 }}
spec:
  policyName: {{ index . 2 }}
  validationActions: [Deny]
{{- end }}

{{/* CEL: whether a pod (the argument) asks for a slice. Kubernetes keeps the requests of an extended
resource equal to its limits. */}}
{{- define "mpslice.asksForSlice" -}}
[dyn({{ . }}.spec.?containers.orValue([])), dyn({{ . }}.spec.?initContainers.orValue([]))].exists(list, list.exists(c,
  c.?resources.?limits.orValue({}).exists(name, name.matches("^nvidia[.]com/gpu-[1-9][0-9]{0,6}gb$") &&
    quantity(string(c.resources.limits[name])).isGreaterThan(quantity("0")))))
{{- end }}
