{{- /* What the admission policies share. */ -}}

{{- /* "true" where the API server has admission policies: from Kubernetes 1.30 on. */ -}}
{{- define "podid.admission.available" -}}
{{- if semverCompare ">=1.30.0-0" .Capabilities.KubeVersion.Version -}}true{{- end -}}
{{- end -}}

{{- /* "true" where the policies of admission.<name> are installed: (list . "limitWrites"). A value that is missing,
       as with --reuse-values, counts as true. */ -}}
{{- define "podid.admission.on" -}}
{{- $root := index . 0 -}}
{{- $value := get ($root.Values.admission | default dict) (index . 1) -}}
{{- if and (or (eq (toString $value) "") (include "podid.true" $value)) (include "podid.admission.available" $root) -}}true{{- end -}}
{{- end -}}

{{- /* The user name of a component's ServiceAccount, as a CEL string: (list . "mic"). */ -}}
{{- define "podid.cel.user" -}}
{{- $root := index . 0 -}}
{{- printf "system:serviceaccount:%s:%s" $root.Release.Namespace (include "podid.serviceAccount" (list $root (index . 1))) | squote -}}
{{- end -}}

{{- /* CEL: two maps are equal but for some keys: (list "object.spec" "oldObject.spec" (list "taints")). */ -}}
{{- define "podid.cel.equalBut" -}}
{{- $a := printf "dyn(%s)" (index . 0) -}}
{{- $b := printf "dyn(%s)" (index . 1) -}}
{{- $keys := printf "['%s']" (join "', '" (index . 2)) -}}
{{ $a }}.all(k, k in {{ $keys }} || k in {{ $b }} && {{ $a }}[k] == {{ $b }}[k]) && {{ $b }}.all(k, k in {{ $keys }} || k in {{ $a }})
{{- end -}}

{{- /* CEL: the metadata are equal, but for what the API server itself keeps there, and a list of fields. */ -}}
{{- define "podid.cel.equalMetadata" -}}
{{- include "podid.cel.equalBut" (list "object.metadata" "oldObject.metadata" (concat (list "managedFields" "resourceVersion" "generation") .)) -}}
{{- end -}}

{{- /* CEL: a field that may be missing: (list "object.status" "conditions" "[]"). */ -}}
{{- define "podid.cel.default" -}}
(has({{ index . 0 }}.{{ index . 1 }}) ? {{ index . 0 }}.{{ index . 1 }} : {{ index . 2 }})
{{- end -}}

{{- /* The binding that puts a policy into force: (list . "name" "mic"). */ -}}
{{- define "podid.admission.binding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ index . 1 }}
  labels:
    {{- include "podid.labels" (list (index . 0) (index . 2)) | nindent 4 }}
spec:
  policyName: {{ index . 1 }}
  validationActions: [Deny]
{{- end -}}
