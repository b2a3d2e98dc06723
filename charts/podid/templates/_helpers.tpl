{{- /* Names, labels and small conversions that all templates share. */ -}}

{{- /* The stem of all names. One installation per cluster, so the release's
       name is no part of it: as the aad-pod-identity chart does. */ -}}
{{- define "podid.name" -}}
{{- .Values.fullnameOverride | default .Values.nameOverride | default .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{- define "podid.mic.fullname" -}}
{{- include "podid.name" . }}-mic
{{- end -}}

{{- define "podid.nmi.fullname" -}}
{{- include "podid.name" . }}-nmi
{{- end -}}

{{- /* The name of a component's ClusterRole: (list . "mic"). Under an old name it is another than that of aad-pod-identity, whose
       pods keep their rights until Helm has replaced them. */ -}}
{{- define "podid.clusterRole" -}}
{{- $fullname := include (printf "podid.%s.fullname" (index . 1)) (index . 0) -}}
{{- hasPrefix "podid" $fullname | ternary $fullname (printf "podid-%s" $fullname) -}}
{{- end -}}

{{- /* What selects the pods of a component: never change, selectors are immutable. */ -}}
{{- define "podid.selector" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Values.nameOverride | default $root.Values.fullnameOverride | default $root.Chart.Name | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
{{- with index . 1 }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end -}}

{{- /* Labels of every object: (list . "mic"), or (list . "") for shared ones. Then any number of a user's. */ -}}
{{- define "podid.labels" -}}
{{- $root := index . 0 -}}
{{- include "podid.merge" (concat (list (include "podid.chartLabels" .) $root.Values.customLabels) (slice . 2)) -}}
{{- end -}}

{{- define "podid.chartLabels" -}}
{{- $root := index . 0 -}}
{{- include "podid.selector" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: podid
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- end -}}

{{- /* Labels or annotations: (list "the chart's, as YAML" user's more…). The chart's keys win, since it relies on them; of the
       user's, the later. */ -}}
{{- define "podid.merge" -}}
{{- $all := dict -}}
{{- range append (rest .) (first . | fromYaml) -}}
{{- range $key, $value := . -}}
{{- $_ := set $all $key (include "podid.text" $value) -}}
{{- end -}}
{{- end -}}
{{- with $all -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{- /* "true" or "": old values files say "true", "false", true or false. */ -}}
{{- define "podid.true" -}}
{{- if has (toString . | lower) (list "true" "1") -}}true{{- end -}}
{{- end -}}

{{- /* "true" or "": whether a switch that is on unless set is off. */ -}}
{{- define "podid.false" -}}
{{- if has (toString . | lower) (list "false" "0") -}}true{{- end -}}
{{- end -}}

{{- /* A scalar as the user wrote it: Helm reads 1000000 as a float and would print 1e+06. */ -}}
{{- define "podid.text" -}}
{{- if kindIs "invalid" . -}}
{{- else if and (kindIs "float64" .) (eq (float64 (int64 .)) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{- /* One argument, (list "flag" value); nothing when the value is unset, so the binary's default holds. */ -}}
{{- define "podid.flag" -}}
{{- $value := include "podid.text" (index . 1) -}}
{{- if ne $value "" }}
- {{ printf "--%s=%s" (index . 0) $value | quote }}
{{- end }}
{{- end -}}

{{- /* A switch that is off unless set: (list "flag" value); nothing when it is off. */ -}}
{{- define "podid.switch" -}}
{{- if include "podid.true" (index . 1) }}
- {{ printf "--%s=true" (index . 0) | quote }}
{{- end }}
{{- end -}}

{{- /* repository/name:tag of a component: (list . .Values.mic). */ -}}
{{- define "podid.image" -}}
{{- $root := index . 0 -}}
{{- $part := index . 1 -}}
{{- $repository := $root.Values.image.repository | trimSuffix "/" -}}
{{- with $root.Values.global.imageRegistry | trimSuffix "/" -}}
{{- $repository = printf "%s/%s" . (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- printf "%s/%s:%s" $repository $part.image (include "podid.text" $part.tag | default $root.Chart.AppVersion) -}}
{{- with $part.digest -}}
@{{ . }}
{{- end -}}
{{- end -}}

{{- /* The pull secrets of all pods, as a YAML list; a name alone is enough for each. */ -}}
{{- define "podid.pullSecrets" -}}
{{- $secrets := list -}}
{{- range concat (.Values.global.imagePullSecrets | default list) (.Values.imagePullSecrets | default list) -}}
{{- $secrets = append $secrets (kindIs "string" . | ternary (dict "name" .) .) -}}
{{- end -}}
{{- with uniq $secrets -}}{{- toYaml . -}}{{- end -}}
{{- end -}}

{{- /* The name of a component's ServiceAccount: (list . "mic"). */ -}}
{{- define "podid.serviceAccount" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- $part.serviceAccount.name | default (include (printf "podid.%s.fullname" (index . 1)) (index . 0)) -}}
{{- end -}}

{{- /* A component's ServiceAccount: (list . "mic"). */ -}}
{{- define "podid.serviceAccount.object" -}}
{{- $part := get (index . 0).Values (index . 1) -}}
{{- if not (include "podid.false" $part.serviceAccount.create) }}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "podid.serviceAccount" . }}
  namespace: {{ (index . 0).Release.Namespace }}
  labels:
    {{- include "podid.labels" (append . $part.serviceAccount.labels) | nindent 4 }}
  {{- with $part.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* A security context whose fields a user may replace, one by one: (list "the chart's, as YAML" user's). Capabilities are
       added to the chart's: a list of a user's own would silently lack those that the program needs, or let all be kept. */ -}}
{{- define "podid.override" -}}
{{- $fields := index . 0 | fromYaml -}}
{{- range $key, $value := index . 1 -}}
{{- if and (eq $key "capabilities") (kindIs "map" $value) -}}
{{- $capabilities := deepCopy ($fields.capabilities | default dict) -}}
{{- range $list := list "add" "drop" -}}
{{- with concat (get $capabilities $list | default list) (get $value $list | default list) | uniq -}}
{{- $_ := set $capabilities $list . -}}
{{- end -}}
{{- end -}}
{{- $value = $capabilities -}}
{{- end -}}
{{- $_ := set $fields $key $value -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end -}}

{{- /* The security context of pods that run a program once, without rights on their node. OpenShift's SecurityContextConstraints
       restricted-v2, which these pods get, choose the user, and refuse one that is given. */ -}}
{{- define "podid.oncePodSecurityContext" -}}
runAsNonRoot: true
{{- if not (include "podid.true" .Values.openshift.enabled) }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* Fields of a pod that are empty unless a user sets them. */ -}}
{{- define "podid.podFields" -}}
{{- range $field := list "dnsConfig" "hostAliases" -}}
{{- with get $ $field }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Namespaced is the default; forceNameSpaced is the old spelling, and wins where it is set. */ -}}
{{- define "podid.forceNamespaced" -}}
{{- $value := .Values.forceNamespaced -}}
{{- if not (kindIs "invalid" .Values.forceNameSpaced) -}}
{{- $value = .Values.forceNameSpaced -}}
{{- end -}}
{{- if eq .Values.operationMode "managed" -}}
true
{{- else if eq (toString $value) "" -}}
true
{{- else -}}
{{- include "podid.true" $value | default "false" -}}
{{- end -}}
{{- end -}}

{{- /* The Secret with MIC's own credentials; "" when they come from the cloud config of the node. */ -}}
{{- define "podid.adminSecret" -}}
{{- with .Values.adminsecret -}}
{{- .existingSecret | default "aadpodidentity-admin-secret" -}}
{{- end -}}
{{- end -}}

{{- /* "true" when MIC reads files of its node; they belong to root and have mode 0600. */ -}}
{{- define "podid.mic.readsHost" -}}
{{- if or (not .Values.adminsecret) (include "podid.true" .Values.mic.customCloud.enabled) -}}true{{- end -}}
{{- end -}}

{{- define "podid.mic.probePort" -}}
{{- include "podid.text" .Values.mic.probePort | default "8080" -}}
{{- end -}}

{{- define "podid.mic.prometheusPort" -}}
{{- include "podid.text" .Values.mic.prometheusPort | default "8888" -}}
{{- end -}}

{{- define "podid.nmi.probePort" -}}
{{- include "podid.text" .Values.nmi.probePort | default "8085" -}}
{{- end -}}

{{- define "podid.nmi.prometheusPort" -}}
{{- include "podid.text" .Values.nmi.prometheusPort | default "9090" -}}
{{- end -}}

{{- define "podid.mic.leaseNamespace" -}}
{{- .Values.mic.leaderElection.namespace | default .Release.Namespace -}}
{{- end -}}

{{- define "podid.mic.leaseName" -}}
{{- .Values.mic.leaderElection.name | default "aad-pod-identity-mic" -}}
{{- end -}}

{{- /* nmi.affinity, and never a virtual node (virtual-kubelet) nor Windows: neither can run NMI, and an update would wait
       for it there for good. The terms of a node selector are alternatives, so each gets the condition. */ -}}
{{- define "podid.nmi.affinity" -}}
{{- $affinity := deepCopy (.Values.nmi.affinity | default dict) -}}
{{- $node := $affinity.nodeAffinity | default dict -}}
{{- $required := $node.requiredDuringSchedulingIgnoredDuringExecution | default dict -}}
{{- $never := list
  (dict "key" "type" "operator" "NotIn" "values" (list "virtual-kubelet"))
  (dict "key" "kubernetes.io/os" "operator" "NotIn" "values" (list "windows")) -}}
{{- $terms := list -}}
{{- range $required.nodeSelectorTerms | default (list (dict "matchExpressions" list)) -}}
{{- if . -}}
{{- $terms = append $terms (merge (dict "matchExpressions" (concat (.matchExpressions | default list) $never)) .) -}}
{{- end -}}
{{- end -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $affinity "nodeAffinity" $node -}}
{{- toYaml $affinity -}}
{{- end -}}
