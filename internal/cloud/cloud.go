// Package cloud is the table of Azure's clouds: names, endpoints, authorities and audiences. It
// imports no other package of this module but ascii, so that every package can use it. The emulator
// does not: it must not share a table with what it tests.
package cloud

import (
	"net/url"
	"slices"

	"github.com/podid-io/podid/internal/ascii"
)

// The names of the clouds, as go-autorest's environments and every azure.json spell them.
const (
	Public       = "AzurePublicCloud"
	USGovernment = "AzureUSGovernmentCloud"
	China        = "AzureChinaCloud"
	// Stack is a private cloud. Its endpoints are in the file that EnvironmentFilepath names.
	Stack = "AzureStackCloud"
)

// Cloud holds the endpoints of one cloud.
type Cloud struct {
	Name string
	// Authority is the URL of Entra ID or AD FS, with a slash at the end and without a tenant.
	Authority string
	// ResourceManager is the URL of Azure Resource Manager, without a slash at the end.
	ResourceManager string
	// Audience is the audience of Resource Manager's tokens, the one that the Azure SDK uses.
	Audience string
	// ExchangeAudience is the audience that Entra ID expects in the token of a federated
	// credential. It is empty for Stack.
	ExchangeAudience string
}

// Private reports whether Entra ID does not know the cloud's authority, so that the SDK must not
// look it up at login.microsoftonline.com first.
func (c Cloud) Private() bool { return c.Name == Stack }

// entry is a cloud that Microsoft operates.
type entry struct {
	Cloud
	aliases []string // other names, as some tools write them
	hosts   []string // further hosts of the authority
}

// table lists the clouds that Microsoft operates, the public one first. The exchange audiences are
// those of
// https://learn.microsoft.com/entra/workload-id/workload-identity-federation-config-app-trust-managed-identity
func table() []entry {
	return []entry{{
		Cloud: Cloud{
			Public, "https://login.microsoftonline.com/",
			"https://management.azure.com", "https://management.core.windows.net/", "api://AzureADTokenExchange",
		},
		aliases: []string{"", "AzureCloud"},
		hosts:   []string{"login.microsoft.com", "login.windows.net", "sts.windows.net"},
	}, {
		Cloud: Cloud{
			USGovernment, "https://login.microsoftonline.us/",
			"https://management.usgovcloudapi.net", "https://management.core.usgovcloudapi.net/", "api://AzureADTokenExchangeUSGov",
		},
		aliases: []string{"AzureUSGovernment"},
		hosts:   []string{"login.usgovcloudapi.net"},
	}, {
		Cloud: Cloud{
			China, "https://login.chinacloudapi.cn/",
			"https://management.chinacloudapi.cn", "https://management.core.chinacloudapi.cn/", "api://AzureADTokenExchangeChina",
		},
		hosts: []string{"login.partner.microsoftonline.cn"},
	}}
}

// Names returns the names of the clouds that Microsoft operates, the public one first.
func Names() []string { return collect(func(e entry) []string { return []string{e.Name} }) }

// ExchangeAudiences returns the exchange audiences of the clouds that Microsoft operates, the
// public one first.
func ExchangeAudiences() []string {
	return collect(func(e entry) []string { return []string{e.ExchangeAudience} })
}

// AuthorityHosts returns the hosts of Entra ID in the clouds that Microsoft operates.
func AuthorityHosts() []string { return collect(entry.authorityHosts) }

func collect(field func(entry) []string) []string {
	var all []string
	for _, e := range table() {
		all = append(all, field(e)...)
	}
	return all
}

// Named returns the cloud of that name or alias, in any letter case. An empty name is the public
// cloud. Stack is not found: use Find.
func Named(name string) (Cloud, bool) {
	return first(func(e entry) bool {
		return slices.ContainsFunc(append(e.aliases, e.Name), func(known string) bool { return ascii.EqualFold(known, name) })
	})
}

// OfAuthority returns the cloud that the host of an authority belongs to.
func OfAuthority(host string) (Cloud, bool) {
	return first(func(e entry) bool { return slices.Contains(e.authorityHosts(), ascii.ToLower(host)) })
}

func first(matches func(entry) bool) (Cloud, bool) {
	for _, e := range table() {
		if matches(e) {
			return e.Cloud, true
		}
	}
	return Cloud{}, false
}

func (e entry) authorityHosts() []string {
	u, err := url.Parse(e.Authority)
	if err != nil {
		return e.hosts
	}
	return append([]string{u.Host}, e.hosts...)
}
