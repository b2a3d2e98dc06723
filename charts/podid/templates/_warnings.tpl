{{- /* What works otherwise than the values say, and what is risky: a YAML list. NOTES.txt shows it, and so does an annotation of
       NMI's DaemonSet, since Flux, Argo CD and Terraform show no notes. */ -}}
{{- define "podid.warnings" -}}
{{- include "podid.warnings.ignored" . -}}
{{- include "podid.warnings.unknown" . -}}
{{- include "podid.warnings.risks" . -}}
{{- include "podid.warnings.oldKubernetes" . -}}
{{- include "podid.warnings.takesOver" . -}}
{{- include "podid.warnings.crds" . -}}
{{- end -}}

{{- define "podid.warning" }}
- {{ . | quote }}
{{- end -}}

{{- /* Values that are set and have no effect. */ -}}
{{- define "podid.warnings.ignored" -}}
{{- $managed := eq .Values.operationMode "managed" -}}
{{- if include "podid.true" .Values.installCRDs -}}
{{- include "podid.warning" "installCRDs is ignored: Helm installs the CRDs with the first install; for upgrades see the chart's README" -}}
{{- end -}}
{{- if ne (include "podid.text" .Values.mic.updateUserMSIMaxRetry) "" -}}
{{- include "podid.warning" "mic.updateUserMSIMaxRetry is ignored: one bad identity is set aside, and the others go on" -}}
{{- end -}}
{{- if ne (include "podid.text" .Values.nmi.micNamespace) "" -}}
{{- include "podid.warning" "nmi.micNamespace is ignored: MIC gets its tokens by an exception (installMICException)" -}}
{{- end -}}
{{- if include "podid.false" .Values.nmi.enableScaleFeatures -}}
{{- include "podid.warning" "nmi.enableScaleFeatures is ignored: they are always on" -}}
{{- end -}}
{{- if include "podid.true" .Values.nmi.enableConntrackDeletion -}}
{{- include "podid.warning" "nmi.enableConntrackDeletion is ignored: connections that are older than NMI are always cut" -}}
{{- end -}}
{{- if include "podid.true" .Values.rbac.pspEnabled -}}
{{- include "podid.warning" "rbac.pspEnabled is ignored: Kubernetes has no PodSecurityPolicy any more; label the namespace pod-security.kubernetes.io/enforce=privileged" -}}
{{- end -}}
{{- if not (kindIs "invalid" .Values.forceNameSpaced) -}}
{{- include "podid.warning" "forceNameSpaced is an old spelling and overrides forceNamespaced: write forceNamespaced" -}}
{{- end -}}
{{- if and $managed (include "podid.false" .Values.forceNamespaced) -}}
{{- include "podid.warning" "forceNamespaced=false is ignored: the managed mode is always namespaced" -}}
{{- end -}}
{{- if and $managed .Values.adminsecret -}}
{{- include "podid.warning" "adminsecret is ignored: the managed mode has no MIC" -}}
{{- end -}}
{{- end -}}

{{- /* Names that this chart does not have. */ -}}
{{- define "podid.warnings.unknown" -}}
{{- $known := .Files.Get "files/known.yaml" | fromYaml -}}
{{- range $section := prepend $known.sections "" -}}
{{- $values := $.Values -}}
{{- range compact (splitList "." $section) -}}
{{- $values = index $values . -}}
{{- end -}}
{{- range $key, $_ := $values -}}
{{- $name := list $section $key | compact | join "." -}}
{{- /* An umbrella chart's conditions are in the values of its parts. */ -}}
{{- if not (or (has $name $known.names) (hasPrefix "global" $name) (has $name (list "enabled" "tags"))) -}}
{{- $nearest := include "podid.nearest" (dict "name" $name "names" $known.names) -}}
{{- include "podid.warning" (printf "%s is no value of this chart and has no effect%s" $name (empty $nearest | ternary "" (printf ": did you mean %s?" $nearest))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* The name that shares most pairs of letters with a wrong one, if it shares at least three fifths. */ -}}
{{- define "podid.nearest" -}}
{{- $name := lower .name -}}
{{- $best := "" -}}
{{- $most := 59 -}}
{{- range $candidate := .names -}}
{{- $shared := 0 -}}
{{- range $i := until (sub (len $name) 1 | int) -}}
{{- if contains (substr $i (int (add $i 2)) $name) (lower $candidate) -}}
{{- $shared = add $shared 1 -}}
{{- end -}}
{{- end -}}
{{- $percent := div (mul 200 $shared) (add (len $name) (len $candidate) -2) | int -}}
{{- if gt $percent $most -}}
{{- $best = $candidate -}}
{{- $most = $percent -}}
{{- end -}}
{{- end -}}
{{- $best -}}
{{- end -}}

{{- define "podid.warnings.risks" -}}
{{- $labels := ((lookup "v1" "Namespace" "" .Release.Namespace).metadata).labels | default dict -}}
{{- $level := get $labels "pod-security.kubernetes.io/enforce" -}}
{{- if and $level (ne $level "privileged") -}}
{{- include "podid.warning" (printf "the namespace %s has the Pod Security level %s, which refuses NMI's pods. Run: kubectl label --overwrite namespace %s pod-security.kubernetes.io/enforce=privileged" .Release.Namespace $level .Release.Namespace) -}}
{{- end -}}
{{- if not (include "podid.nmi.everywhere" .) -}}
{{- include "podid.warning" "nmi.tolerations does not tolerate every taint. On a node without NMI, pods reach the real metadata service and the node's own identities. Use [{operator: Exists}]" -}}
{{- end -}}
{{- if has .Release.Namespace (list "default" "kube-system") -}}
{{- include "podid.warning" (printf "podid is in the namespace %s. The right to create pods or read Secrets there is close to access to every identity: give podid a namespace of its own, such as podid-system" .Release.Namespace) -}}
{{- end -}}
{{- if and (include "podid.true" .Values.rbac.createUserFacingClusterRoles) (not (include "podid.identityPolicy.mode" .)) -}}
{{- include "podid.warning" "rbac.createUserFacingClusterRoles lets every user with the role edit in a namespace name any identity that Azure lets the nodes have. identityPolicy says which namespace may use which" -}}
{{- end -}}
{{- if include "podid.true" .Values.rbac.allowAccessToSecrets -}}
{{- include "podid.warning" "rbac.allowAccessToSecrets lets NMI, and so an attacker on one node, read the Secrets of all namespaces. Name those with identities of types 1 and 2 in rbac.secretNamespaces instead" -}}
{{- end -}}
{{- $secrets := include "podid.identities.secrets" . | fromYaml -}}
{{- if and $secrets (not (include "podid.true" .Values.rbac.enabled)) -}}
{{- include "podid.warning" (printf "azureIdentities has identities of types 1 and 2, and rbac.enabled is false: let NMI get their Secrets in %s" (keys $secrets | sortAlpha | join ", ")) -}}
{{- end -}}
{{- if eq (include "podid.forceNamespaced" .) "true" -}}
{{- range .Values.azureIdentities -}}
{{- if and .clientPassword (has (int .type) (list 1 2)) -}}
{{- $own := .namespace | default $.Release.Namespace -}}
{{- $reference := include "podid.identity.clientPassword" .clientPassword | fromYaml -}}
{{- if ne ($reference.namespace | default $own) $own -}}
{{- include "podid.warning" (printf "azureIdentities: the Secret %s is in %s and its identity in %s. With forceNamespaced both must be in one namespace: move the Secret" $reference.name $reference.namespace $own) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (not (include "podid.true" .Values.installMICException)) (eq .Values.operationMode "standard") -}}
{{- include "podid.warning" "without installMICException, MIC must not need the metadata service for its own tokens" -}}
{{- end -}}
{{- end -}}

{{- /* After a move under the old name. */ -}}
{{- define "podid.warnings.takesOver" -}}
{{- if include "podid.takesOver" . -}}
{{- include "podid.warning" "this release takes over the name of aad-pod-identity, whose pods keep their rights meanwhile. When the rollout is complete, run the same helm upgrade again: it removes these rights and installs the policies of admission.limitWrites" -}}
{{- end -}}
{{- end -}}

{{- define "podid.warnings.crds" -}}
{{- $old := include "podid.crds.old" . | fromYamlArray -}}
{{- if and $old (not (include "podid.true" .Values.crds.upgrade)) -}}
{{- include "podid.warning" (printf "the CRDs of the cluster are not those of this chart: %s. Helm does not update them. Run: helm show crds CHART | kubectl apply --server-side --force-conflicts --field-manager=helm -f -, or set crds.upgrade" (join ", " $old)) -}}
{{- end -}}
{{- if include "podid.false" .Values.crds.keep -}}
{{- include "podid.warning" "crds.keep is false: helm uninstall deletes all identities and bindings of the cluster. The identities stay on the VMs and scale sets, since MIC is gone by then, and objects of aad-pod-identity with a finalizer keep their CRD from going: podid cleanup removes both" -}}
{{- end -}}
{{- end -}}

{{- /* Before Kubernetes 1.30 there is no ValidatingAdmissionPolicy. */ -}}
{{- define "podid.warnings.oldKubernetes" -}}
{{- if not (include "podid.admission.available" .) -}}
{{- $old := "this Kubernetes has no ValidatingAdmissionPolicy (1.30 has), so" -}}
{{- if and (include "podid.true" .Values.federation.enabled) (include "podid.true" .Values.federation.admissionPolicy) -}}
{{- include "podid.warning" (printf "%s federation.admissionPolicy has no effect: an attacker on one node can get tokens of all brokers for any audience. Use federation.enabled=false unless there are identities of type 3" $old) -}}
{{- end -}}
{{- if and (include "podid.true" .Values.nmi.startupTaint) (not (include "podid.nmi.startupTaint" .)) -}}
{{- include "podid.warning" (printf "%s nmi.startupTaint has no effect: NMI could not be restricted to this taint on its own node. Do not let nodes join with aadpodidentity.k8s.io/agent-not-ready" $old) -}}
{{- end -}}
{{- include "podid.warning" (printf "%s the values under admission have no effect: a stolen token of MIC can change more than MIC does, and the role edit in the namespace %s includes MIC's and NMI's tokens" $old .Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{- /* "true" where NMI tolerates every taint. */ -}}
{{- define "podid.nmi.everywhere" -}}
{{- range .Values.nmi.tolerations -}}
{{- if and (eq (.operator | default "") "Exists") (not .key) (not .effect) -}}true{{- end -}}
{{- end -}}
{{- end -}}
