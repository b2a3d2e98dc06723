// The client configuration for the API server.

package daemon

import (
	"errors"
	"fmt"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/podid-io/podid/internal/listwatch"
)

// KubeConfig reads the kubeconfig, or the service account of the daemon's pod. Informers of package
// listwatch recover soon after the API server does.
func (o *Options) KubeConfig(daemon string) (*rest.Config, error) {
	config, err := o.loadKubeConfig(daemon)
	if err != nil {
		return nil, err
	}
	config.UserAgent = o.UserAgent(daemon)
	listwatch.OwnRetries(config)
	return config, nil
}

func (o *Options) loadKubeConfig(daemon string) (*rest.Config, error) {
	if o.Kubeconfig != "" {
		config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
		if err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", o.Kubeconfig, err)
		}
		return config, nil
	}
	config, err := rest.InClusterConfig()
	if errors.Is(err, rest.ErrNotInCluster) {
		return nil, fmt.Errorf("no API server: %s does not run in a pod, so name a kubeconfig with --kubeconfig or $KUBECONFIG", daemon)
	}
	if err != nil {
		return nil, fmt.Errorf("read the pod's service account: %w", err)
	}
	return config, nil
}
