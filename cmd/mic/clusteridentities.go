// The flags that name the cluster's own identities, which pods do not get unless a policy names
// them.

package main

import (
	"flag"
	"fmt"
	"slices"

	v1 "github.com/podid-io/podid/api/v1"
	"github.com/podid-io/podid/internal/azure"
	"github.com/podid-io/podid/internal/identity"
)

// clusterOptions are the flags for the cluster's own identities.
type clusterOptions struct {
	allow bool
	list  string
}

func (o *clusterOptions) bindFlags(flags *flag.FlagSet) {
	flags.BoolVar(&o.allow, "allow-cluster-identities", false,
		"let pods have identities of the cluster itself, as aad-pod-identity did: mic's own, the kubelet's and those of --cluster-identities")
	flags.StringVar(&o.list, "cluster-identities", "",
		"client `ids` or resource IDs, separated by commas, of identities of the cluster itself; mic's own is known from the cloud config, "+
			"the kubelet's also by the nodes' label "+v1.KubeletIdentityLabel)
}

func (o *clusterOptions) validate() error {
	if err := identity.CheckIDs(o.list); err != nil {
		return fmt.Errorf("--cluster-identities: %w", err)
	}
	return nil
}

// set returns the IDs of the cluster's own identities: those of the flag, and the one or two of the
// cloud config, which are MIC's own and often the kubelet's.
func (o *clusterOptions) set(config azure.Config) map[string]bool {
	ids := append(identity.SplitIDs(o.list), config.ClientID, config.UserAssignedIdentityID)
	return identity.IDSet(slices.DeleteFunc(ids, func(id string) bool { return !identity.IsID(id) })...)
}
