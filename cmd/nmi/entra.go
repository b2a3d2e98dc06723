// Which Entra ID identities of types 1, 2 and 3 get their tokens from.

package main

import (
	"crypto/x509"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/podid-io/podid/internal/agent/token"
	"github.com/podid-io/podid/internal/ascii"
	"github.com/podid-io/podid/internal/identity"
)

// entraOptions: the cloud, and who vouches for federated identities.
type entraOptions struct {
	cloud           string
	authorityHost   string
	environmentFile string
	brokerNamespace string

	authority token.Authority // worked out by validate
	roots     *x509.CertPool  // nil: the system's
}

// The clouds, as go-autorest and every azure.json call them.
const (
	publicCloud = "AzurePublicCloud"
	usGovCloud  = "AzureUSGovernmentCloud"
	chinaCloud  = "AzureChinaCloud"
	stackCloud  = "AzureStackCloud"
)

func (o *entraOptions) bindFlags(flags *flag.FlagSet) {
	flags.StringVar(&o.cloud, "cloud", "", "`name` of the Azure cloud: "+publicCloud+", "+usGovCloud+", "+chinaCloud+
		", or "+stackCloud+" with its endpoints in the file named by AZURE_ENVIRONMENT_FILEPATH; without it $CLOUD, or else "+publicCloud)
	flags.StringVar(&o.authorityHost, "authority-host", "", "https `URL` of Entra ID or ADFS, instead of the cloud's; without it $AZURE_AUTHORITY_HOST. An AzureIdentity's adEndpoint goes before it")
	flags.StringVar(&o.brokerNamespace, "broker-namespace", identity.DefaultBrokerNamespace, "`namespace` of the ServiceAccounts that vouch for federated identities (type 3)")
}

func (o *entraOptions) complete(getenv func(string) string) {
	if o.cloud == "" {
		o.cloud = getenv("CLOUD")
	}
	if o.authorityHost == "" {
		o.authorityHost = getenv("AZURE_AUTHORITY_HOST")
	}
	o.environmentFile = getenv("AZURE_ENVIRONMENT_FILEPATH")
}

// validate works out the authority.
func (o *entraOptions) validate() error {
	var err error
	if problems := validation.IsDNS1123Label(o.brokerNamespace); len(problems) > 0 {
		err = fmt.Errorf("--broker-namespace=%q cannot be the name of a namespace: %s", o.brokerNamespace, problems[0])
	}
	host, cloudErr := o.cloudHost()
	if o.authorityHost != "" {
		var parse error
		if o.authority, parse = token.ParseAuthority(o.authorityHost); parse != nil {
			parse = fmt.Errorf("--authority-host (or AZURE_AUTHORITY_HOST) %w", parse)
		}
		return errors.Join(err, parse)
	}
	if cloudErr != nil {
		return errors.Join(err, cloudErr)
	}
	o.authority, cloudErr = token.ParseAuthority(host)
	if cloudErr != nil {
		cloudErr = fmt.Errorf("activeDirectoryEndpoint in %s (AZURE_ENVIRONMENT_FILEPATH) %w", o.environmentFile, cloudErr)
	}
	return errors.Join(err, cloudErr)
}

// cloudHost is the authority of the cloud, which it gives its proper name.
func (o *entraOptions) cloudHost() (string, error) {
	switch ascii.ToLower(strings.TrimSpace(o.cloud)) {
	case "", "azurepubliccloud", "azurecloud":
		o.cloud = publicCloud
		return "https://login.microsoftonline.com/", nil
	case "azureusgovernmentcloud", "azureusgovernment":
		o.cloud = usGovCloud
		return "https://login.microsoftonline.us/", nil
	case "azurechinacloud":
		o.cloud = chinaCloud
		return "https://login.chinacloudapi.cn/", nil
	case "azurestackcloud":
		o.cloud = stackCloud
		return stackHost(o.environmentFile)
	default:
		return "", fmt.Errorf("--cloud=%q is unknown: use %s, %s, %s, or %s with AZURE_ENVIRONMENT_FILEPATH",
			o.cloud, publicCloud, usGovCloud, chinaCloud, stackCloud)
	}
}

// maxEnvironment is far beyond any file of endpoints.
const maxEnvironment = 1 << 20

// stackHost reads the authority from the file of go-autorest's azure.Environment.
func stackHost(path string) (string, error) {
	if path == "" {
		return "", fmt.Errorf("cloud %s needs its endpoints: set AZURE_ENVIRONMENT_FILEPATH to the path of the JSON file that has them, or give --authority-host", stackCloud)
	}
	file, err := os.Open(path) //nolint:gosec // the operator names it
	if err != nil {
		return "", fmt.Errorf("read the endpoints of the cloud (AZURE_ENVIRONMENT_FILEPATH): %w", err)
	}
	defer func() { _ = file.Close() }()
	var environment struct {
		ActiveDirectoryEndpoint string `json:"activeDirectoryEndpoint"`
	}
	if err := json.NewDecoder(io.LimitReader(file, maxEnvironment)).Decode(&environment); err != nil {
		return "", fmt.Errorf("read the endpoints of the cloud from %s (AZURE_ENVIRONMENT_FILEPATH): %w", path, err)
	}
	if environment.ActiveDirectoryEndpoint == "" {
		return "", fmt.Errorf("%s (AZURE_ENVIRONMENT_FILEPATH) has no activeDirectoryEndpoint", path)
	}
	return environment.ActiveDirectoryEndpoint, nil
}
