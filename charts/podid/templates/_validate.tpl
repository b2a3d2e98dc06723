{{- /* Mistakes that the schema cannot word well, caught before anything reaches the cluster. */ -}}
{{- define "podid.validate" -}}
{{- include "podid.validate.image" (list . "nmi") -}}
{{- if or (eq .Values.operationMode "standard") (include "podid.true" .Values.crds.upgrade) (include "podid.false" .Values.crds.keep) -}}
{{- include "podid.validate.image" (list . "mic") -}}
{{- end -}}
{{- include "podid.validate.serviceAccounts" . -}}
{{- if and (include "podid.true" .Values.networkPolicy.enabled) (not .Values.networkPolicy.ports) -}}
{{- fail "networkPolicy.ports is empty: name the TCP ports of the API server and of Azure" -}}
{{- end -}}
{{- if and (include "podid.true" .Values.federation.enabled) (eq (include "podid.federation.namespace" .) .Release.Namespace) -}}
{{- fail "federation.namespace is the namespace of the release: brokers need one of their own, since no pod may run there" -}}
{{- end -}}
{{- if and (include "podid.true" .Values.federation.limitToNodes) (not (include "podid.federation.byNode" .)) -}}
{{- fail "federation.limitToNodes needs operationMode standard, federation.admissionPolicy, rbac.enabled and Kubernetes 1.30" -}}
{{- end -}}
{{- if and .Values.mic.agentTaintAfter (ne (toString .Values.mic.agentTaintAfter) "0s") (ne (toString .Values.mic.agentTaintAfter) "0") (not (include "podid.nmi.startupTaint" .)) -}}
{{- fail "mic.agentTaintAfter needs nmi.startupTaint and Kubernetes 1.30: nothing would remove the taint" -}}
{{- end -}}
{{- if eq .Values.operationMode "standard" -}}
{{- include "podid.validate.adminsecret" . -}}
{{- include "podid.validate.lease" . -}}
{{- end -}}
{{- end -}}

{{- define "podid.validate.adminsecret" -}}
{{- with .Values.adminsecret -}}
{{- if not (or .existingSecret (include "podid.true" .useMSI) (eq (toString .clientID | lower) "msi")) -}}
{{- $missing := list -}}
{{- $given := . -}}
{{- range list "tenantID" "clientID" "clientSecret" -}}
{{- if eq (include "podid.text" (get $given .)) "" -}}
{{- $missing = append $missing (printf "adminsecret.%s" .) -}}
{{- end -}}
{{- end -}}
{{- if $missing -}}
{{- fail (printf "%s missing: a service principal needs tenantID, clientID and clientSecret. Set adminsecret.useMSI to true for a managed identity, adminsecret.existingSecret for a Secret of yours, or leave adminsecret empty for the node's cloud config (mic.cloudConfig)" (join " and " $missing)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* A component that would run aad-pod-identity, which does not know the flags of this chart: (list . "mic"). The tags of
       aad-pod-identity since v1.6 begin with v, which podid's do not; older ones do not either, and count in a repository of that
       name alone. A digest goes before the tag. */ -}}
{{- define "podid.validate.image" -}}
{{- $root := index . 0 -}}
{{- $part := get $root.Values (index . 1) -}}
{{- $image := include "podid.image" (list $root $part) -}}
{{- $tag := include "podid.text" $part.tag -}}
{{- $help := "Take image.repository, mic.image, nmi.image, mic.tag and nmi.tag out of your values, or point them to your copy of podid's images; with `helm upgrade`, pass your own values with -f instead of --reuse-values" -}}
{{- if contains "mcr.microsoft.com/oss/azure/aad-pod-identity" $image -}}
{{- fail (printf "%s is an image of aad-pod-identity, which this chart cannot run. %s" $image $help) -}}
{{- end -}}
{{- if not (or $part.digest (eq $tag $root.Chart.AppVersion)) -}}
{{- if or (regexMatch "^v1[.][0-8]([.]|$)" $tag) (and (contains "aad-pod-identity" $image) (regexMatch "^1[.][0-8]([.]|$)" $tag)) -}}
{{- fail (printf "%s.tag=%s is a version of aad-pod-identity, which this chart cannot run. %s" (index . 1) $tag $help) -}}
{{- end -}}
{{- if and (contains "aad-pod-identity" $image) (eq $tag "") -}}
{{- fail (printf "%s is an image of aad-pod-identity, or a mirror of it, which this chart cannot run. %s. Where podid's images are there, set mic.tag and nmi.tag" $image $help) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* Policies know MIC and NMI by their ServiceAccounts. */ -}}
{{- define "podid.validate.serviceAccounts" -}}
{{- range $component := list "mic" "nmi" -}}
{{- if eq (include "podid.serviceAccount" (list $ $component)) "default" -}}
{{- fail (printf "%s.serviceAccount.name is default, which every pod of the namespace has that names none: choose one of its own" $component) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.operationMode "standard") (eq (include "podid.serviceAccount" (list . "mic")) (include "podid.serviceAccount" (list . "nmi"))) -}}
{{- fail "mic.serviceAccount.name and nmi.serviceAccount.name are the same: NMI, which is on every node, would have MIC's rights" -}}
{{- end -}}
{{- end -}}

{{- define "podid.validate.lease" -}}
{{- $duration := include "podid.text" .Values.mic.leaderElection.duration -}}
{{- if and $duration (lt (include "podid.milliseconds" $duration | int) 4000) -}}
{{- fail (printf "mic.leaderElection.duration=%s is too short for two renewals: use 4s or more, or leave it empty for 6s" $duration) -}}
{{- end -}}
{{- end -}}

{{- /* A Go duration, such as 1m30s, in milliseconds. */ -}}
{{- define "podid.milliseconds" -}}
{{- $units := dict "ns" 0.000001 "us" 0.001 "ms" 1.0 "s" 1000.0 "m" 60000.0 "h" 3600000.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+[a-z]+" . -1 -}}
{{- $number := regexFind "[0-9.]+" . -}}
{{- $sum = addf $sum (mulf $number (get $units (trimPrefix $number .))) -}}
{{- end -}}
{{- $sum | int -}}
{{- end -}}
