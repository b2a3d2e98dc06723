// Who can act as MIC or NMI: even with every permission in the namespace of the release, only its
// controllers and kubelets.

package chart

import (
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/podid-io/podid/internal/testenv"
)

func TestServiceAccounts(t *testing.T) {
	api := startCluster(t, "")
	api.helm(t, "install", "podid", chartDir, "--create-namespace", "--values", "testdata/values/default.yaml")
	testenv.Create(t, api, node("red"), node("blue"))
	_, _ = api.agentOn(t, "red"), api.micOn(t, "red")
	api.grant(t, "mallory", namespace, rbacv1.PolicyRule{APIGroups: []string{"*"}, Resources: []string{"*"}, Verbs: []string{"*"}})
	t.Run("tokens", func(t *testing.T) { accountTokens(t, api) })
	t.Run("pods", func(t *testing.T) { accountPods(t, api) })
	t.Run("workloads", func(t *testing.T) { accountWorkloads(t, api) })

	// The value lifts the restrictions on mallory.
	api.helm(t, "upgrade", "podid", chartDir, "--set", "admission.protectServiceAccounts=false")
	api.attempts(t, map[string]attempt{"opted out": {tokenFor(t, api.user(t, "mallory"), "podid-nmi", nil), ""}})
}

func tokenFor(t *testing.T, who client.Client, account string, bound *authenticationv1.BoundObjectReference) func() error {
	return func() error {
		return who.SubResource("token").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account}},
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}})
	}
}

func accountTokens(t *testing.T, api cluster) {
	mallory := api.user(t, "mallory")
	pod := podOf("podid-nmi", "", "", "red")
	if err := api.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	ofPod := &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}
	secret := func(account string) func() error {
		return func() error {
			return mallory.Create(t.Context(), &corev1.Secret{
				ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "t", Annotations: map[string]string{"kubernetes.io/service-account.name": account}},
				Type:       corev1.SecretTypeServiceAccountToken,
			}, client.DryRunAll)
		}
	}
	const refused = "only the kubelets of podid's pods"
	api.attempts(t, map[string]attempt{
		"of the kubelet":            {tokenFor(t, api.kubelet(t, "red"), "podid-nmi", ofPod), ""},
		"of another kubelet":        {tokenFor(t, api.kubelet(t, "blue"), "podid-nmi", ofPod), "forbidden"},
		"bound to a pod":            {tokenFor(t, mallory, "podid-nmi", ofPod), refused},
		"bound to a node":           {tokenFor(t, mallory, "podid-nmi", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Node", Name: "red"}), refused},
		"bound to nothing":          {tokenFor(t, mallory, "podid-nmi", nil), refused},
		"of MIC":                    {tokenFor(t, mallory, "podid-mic", nil), refused},
		"by an administrator":       {tokenFor(t, api, "podid-mic", nil), refused},
		"of another ServiceAccount": {tokenFor(t, mallory, "default", nil), "not found"}, // nothing makes it in this cluster
		"Secret of MIC":             {secret("podid-mic"), "have no token Secrets"},
		"Secret of NMI":             {secret("podid-nmi"), "have no token Secrets"},
	})
}

func accountPods(t *testing.T, api cluster) {
	mallory := api.user(t, "mallory")
	controller := func(name string) client.Client { return api.serviceAccount(t, "kube-system", name) }
	create := func(who client.Client, account, kind, owner string, how ...func(*corev1.Pod)) func() error {
		pod := podOf(account, kind, owner, "red")
		pod.Name += "-next"
		if kind == "" {
			pod.OwnerReferences = nil
		}
		for _, f := range how {
			f(pod)
		}
		return func() error { return who.Create(t.Context(), pod.DeepCopy(), client.DryRunAll) }
	}
	patch := func(who client.Client, account string, how func(*corev1.Pod)) func() error {
		return func() error {
			return change(t, who, podOf(account, "", "", "red"), how, client.DryRunAll)
		}
	}
	image := func(pod *corev1.Pod) { pod.Spec.Containers[0].Image = "evil" }
	asMIC := func(pod *corev1.Pod) { pod.Labels = map[string]string{"podid.io/component": "podid-mic"} }
	asMICInCapitals := func(pod *corev1.Pod) { pod.Labels = map[string]string{"podid.io/component": "Podid-MIC"} }
	const refused, changed = "only the controllers of podid's DaemonSet and Deployment", "only by users who may change pods in all namespaces"
	api.attempts(t, map[string]attempt{
		"of the DaemonSet":          {create(controller("daemon-set-controller"), "podid-nmi", "DaemonSet", "podid-nmi"), ""},
		"of the Deployment":         {create(controller("replicaset-controller"), "podid-mic", "ReplicaSet", "podid-mic-6d4cf56db6", asMIC), ""},
		"of another DaemonSet":      {create(controller("daemon-set-controller"), "podid-nmi", "DaemonSet", "other"), refused},
		"of a Job":                  {create(controller("job-controller"), "podid-mic", "Job", "other"), refused},
		"MIC in the DaemonSet":      {create(controller("daemon-set-controller"), "podid-mic", "DaemonSet", "podid-nmi"), refused},
		"without owner":             {create(mallory, "podid-nmi", "", ""), refused},
		"with a claim to be NMI's":  {create(mallory, "podid-nmi", "DaemonSet", "podid-nmi"), refused},
		"with a claim to be MIC's":  {create(mallory, "podid-mic", "ReplicaSet", "podid-mic-1"), refused},
		"with MIC's exception":      {create(mallory, "default", "", "", asMIC), refused},
		"with MIC's, in capitals":   {create(mallory, "default", "", "", asMICInCapitals), refused},
		"as another account":        {create(mallory, "default", "", ""), ""},
		"image of NMI":              {patch(mallory, "podid-nmi", image), changed},
		"image of MIC":              {patch(mallory, "podid-mic", image), changed},
		"image by an administrator": {patch(api, "podid-nmi", image), ""},
		"annotation":                {patch(mallory, "podid-nmi", func(pod *corev1.Pod) { pod.Annotations = map[string]string{"a": "b"} }), ""},
		"another container":         {debug(t, mallory), changed},
		"exec":                      {enter(t, api, "podid-nmi-red", "exec"), "only by users who may enter pods in all namespaces"},
		"a port of the node":        {enter(t, api, "podid-nmi-red", "portforward"), "only by users who may enter pods in all namespaces"},
		"exec into another":         {enter(t, api, "web", "exec"), "not found"},
	})
}

// debug adds an ephemeral container.
func debug(t *testing.T, who client.Client) func() error {
	return func() error {
		pod := podOf("podid-nmi", "", "", "red")
		if err := who.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
			return err
		}
		pod.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "d", Image: "evil"}}}
		return who.SubResource("ephemeralcontainers").Update(t.Context(), pod, &client.SubResourceUpdateOptions{UpdateOptions: client.UpdateOptions{DryRun: []string{metav1.DryRunAll}}})
	}
}

// enter requests a connection to a pod, as kubectl exec does, up to the admission decision.
func enter(t *testing.T, api cluster, pod, subresource string) func() error {
	config := api.config(t)
	config.Impersonate = rest.ImpersonationConfig{UserName: "mallory", Groups: []string{"system:authenticated"}}
	config.GroupVersion, config.APIPath, config.NegotiatedSerializer = &corev1.SchemeGroupVersion, "/api", scheme.Codecs.WithoutConversion()
	to, err := rest.RESTClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	return func() error {
		return to.Post().Namespace(namespace).Resource("pods").Name(pod).SubResource(subresource).Param("command", "sh").Param("stdout", "true").Do(t.Context()).Error()
	}
}

func accountWorkloads(t *testing.T, api cluster) {
	mallory := api.user(t, "mallory")
	patch := func(who client.Client, object client.Object, how func()) func() error {
		return func() error {
			return change(t, who, object, func(client.Object) { how() }, client.DryRunAll)
		}
	}
	nmi := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "podid-nmi"}}
	mic := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "podid-mic"}}
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}},
		Spec:       corev1.PodSpec{ServiceAccountName: "podid-mic", Containers: []corev1.Container{{Name: "c", Image: "evil"}}},
	}
	selector := &metav1.LabelSelector{MatchLabels: template.Labels}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "podid-mic-1"}
	create := func(who client.Client, object client.Object) func() error {
		return func() error {
			return who.Create(t.Context(), object.DeepCopyObject().(client.Object), client.DryRunAll)
		}
	}
	set := &appsv1.ReplicaSet{ObjectMeta: meta, Spec: appsv1.ReplicaSetSpec{Selector: selector, Template: template}}
	job := &batchv1.Job{ObjectMeta: meta, Spec: batchv1.JobSpec{Template: *template.DeepCopy()}}
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	evilNMI := func() { nmi.Spec.Template.Spec.Containers[0].Image = "evil" }
	evilMIC := func() { mic.Spec.Template.Spec.Containers[0].Image = "evil" }
	const refused = "only by users who may change such workloads in all namespaces"
	api.attempts(t, map[string]attempt{
		"image of NMI":              {patch(mallory, nmi, evilNMI), refused},
		"image of MIC":              {patch(mallory, mic, evilMIC), refused},
		"account of NMI":            {patch(mallory, nmi, func() { nmi.Spec.Template.Spec.ServiceAccountName = "default" }), refused},
		"annotation":                {patch(mallory, nmi, func() { nmi.Annotations = map[string]string{"a": "b"} }), ""},
		"a ReplicaSet":              {create(mallory, set), refused},
		"of the Deployment":         {create(api.serviceAccount(t, "kube-system", "deployment-controller"), set), ""},
		"a Deployment":              {create(mallory, &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: selector, Template: template}}), refused},
		"a DaemonSet":               {create(mallory, &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: selector, Template: template}}), refused},
		"a Job, which gets no pods": {create(mallory, job), ""},
		"image by an administrator": {patch(api, nmi, evilNMI), ""},
	})
}
