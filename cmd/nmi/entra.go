// The Entra ID that issues the tokens of identities of types 1, 2 and 3.

package main

import (
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podid-io/podid/internal/agent/token/entra"
	"github.com/podid-io/podid/internal/cloud"
	"github.com/podid-io/podid/internal/identity"
)

// entraOptions are the cloud, and the namespace of the ServiceAccounts of federated identities.
type entraOptions struct {
	cloud           string
	authorityHost   string
	environmentFile string
	brokerNamespace string

	authority entra.Authority // set by validate
	roots     *x509.CertPool  // nil: the system's
}

func (o *entraOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.cloud, "cloud", "", "`name` of the Azure cloud: "+strings.Join(cloud.Names(), ", ")+
		", or "+cloud.Stack+" with its endpoints in the file named by "+cloud.EnvironmentFilepath+"; without it $CLOUD, or else "+cloud.Public)
	flags.StringVar(&o.authorityHost, "authority-host", "", "https `URL` of Entra ID or ADFS, instead of the cloud's; default $AZURE_AUTHORITY_HOST. An AzureIdentity's adEndpoint takes precedence")
	flags.StringVar(&o.brokerNamespace, "broker-namespace", identity.DefaultBrokerNamespace, "`namespace` of the ServiceAccounts that authenticate federated identities (type 3)")
}

func (o *entraOptions) complete(getenv func(string) string) {
	if o.cloud == "" {
		o.cloud = getenv("CLOUD")
	}
	if o.authorityHost == "" {
		o.authorityHost = getenv("AZURE_AUTHORITY_HOST")
	}
	o.environmentFile = getenv(cloud.EnvironmentFilepath)
}

// validate sets the authority and the canonical name of the cloud.
func (o *entraOptions) validate() error {
	var err error
	if problems := validation.IsDNS1123Label(o.brokerNamespace); len(problems) > 0 {
		err = fmt.Errorf("--broker-namespace=%q cannot be the name of a namespace: %s", o.brokerNamespace, problems[0])
	}
	found, cloudErr := cloud.Find(o.cloud, o.environmentFile)
	if found.Name != "" {
		o.cloud = found.Name
	}
	host, source := found.Authority, fmt.Sprintf("activeDirectoryEndpoint in %s (%s)", o.environmentFile, cloud.EnvironmentFilepath)
	if o.authorityHost != "" {
		host, source, cloudErr = o.authorityHost, "--authority-host (or AZURE_AUTHORITY_HOST)", nil
	}
	if cloudErr != nil {
		return errors.Join(err, fmt.Errorf("--cloud: %w, or set --authority-host", cloudErr))
	}
	authority, parseErr := entra.ParseAuthority(host)
	if parseErr != nil {
		return errors.Join(err, fmt.Errorf("%s %w", source, parseErr))
	}
	o.authority = authority
	return err
}
