package azure

// How podid itself signs in to Azure, following the cloud config when it changes.

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"
	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/observe"
)

// CredentialOptions is what a Credential needs besides its first Config.
type CredentialOptions struct {
	// Path and Getenv are those that Load was called with. With an empty Path nothing is re-read: an environment does not change.
	Path   string
	Getenv func(string) string
	// Log hears once of every change of the file, and why a new one is not used.
	Log logr.Logger
	// Transport carries the requests to Entra ID or the metadata service; nil means the SDK's own.
	Transport policy.Transporter
}

// Credential is podid's own credential. It looks at the file before every token (one stat call; tokens are cached by the
// SDK, so that is rare) and signs in anew when the file has changed, as it does when a service principal's secret is rotated. A new
// file that is broken, or that names another cloud, is reported once and the last good one stays in use.
type Credential struct {
	options CredentialOptions

	mu     sync.Mutex
	config Config
	seen   stamp
	inner  azcore.TokenCredential
}

// Credential is what the Azure SDK's clients take.
var _ azcore.TokenCredential = (*Credential)(nil)

// NewCredential makes the credential that the config asks for. It does not talk to Azure.
func NewCredential(config Config, options CredentialOptions) (*Credential, error) {
	inner, err := signIn(config, options.Transport)
	if err != nil {
		return nil, err
	}
	// Not the stamp of now: the file may have changed since Load. The first token compares.
	return &Credential{options: options, config: config, inner: inner}, nil
}

// GetToken is azcore.TokenCredential.
func (c *Credential) GetToken(ctx context.Context, request policy.TokenRequestOptions) (azcore.AccessToken, error) {
	return c.current().GetToken(ctx, request)
}

// current returns the credential of the newest good config.
func (c *Credential) current() azcore.TokenCredential {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options.Path == "" {
		return c.inner
	}
	now := stampOf(c.options.Path)
	if now == c.seen {
		return c.inner
	}
	c.seen = now
	if err := c.reload(); err != nil {
		c.options.Log.Error(err, "the cloud config changed and cannot be used; signing in with the last good one")
	}
	return c.inner
}

// reload reads the file again and swaps the credential if the config really differs; an equal one keeps its tokens.
func (c *Credential) reload() error {
	config, err := Load(c.options.Path, c.options.Getenv)
	if err != nil {
		return err
	}
	if config.equal(c.config) {
		return nil
	}
	if config.Cloud.Endpoints.ActiveDirectoryAuthorityHost != c.config.Cloud.Endpoints.ActiveDirectoryAuthorityHost || config.Cloud.Name != c.config.Cloud.Name {
		return fmt.Errorf("read cloud config %s: the cloud changed from %s to %s: restart to move there", c.options.Path, c.config.Cloud.Name, config.Cloud.Name)
	}
	inner, err := signIn(config, c.options.Transport)
	if err != nil {
		return err
	}
	c.config, c.inner = config, inner
	c.options.Log.Info("the cloud config changed; signing in anew", "path", c.options.Path, "clientID", observe.ShortID(config.ClientID), "managedIdentity", config.ManagedIdentity)
	return nil
}

// equal compares what the credential depends on.
func (c Config) equal(other Config) bool {
	return c.Cloud.Name == other.Cloud.Name && c.TenantID == other.TenantID && c.ClientID == other.ClientID &&
		c.ClientSecret.Equal(other.ClientSecret) && c.ManagedIdentity == other.ManagedIdentity &&
		c.UserAssignedIdentityID == other.UserAssignedIdentityID
}

// stamp tells one state of a file from another. A mounted secret changes by a symbolic link being swapped, which gives another
// inode; an editor may keep the inode and the size.
type stamp struct {
	modified time.Time
	size     int64
	inode    uint64
	missing  bool
}

// stampOf looks at the file behind the path.
func stampOf(path string) stamp {
	info, err := os.Stat(path)
	if err != nil {
		return stamp{missing: true}
	}
	return stamp{modified: info.ModTime(), size: info.Size(), inode: inode(info)}
}

// signIn makes the SDK's credential for the config.
func signIn(config Config, transport policy.Transporter) (azcore.TokenCredential, error) {
	options := azcore.ClientOptions{Cloud: config.Cloud.Endpoints, Transport: transport}
	if config.ManagedIdentity {
		return managedIdentity(config.UserAssignedIdentityID, options)
	}
	options.Retry = policy.RetryOptions{MaxRetries: 2, TryTimeout: 20 * time.Second, MaxRetryDelay: 5 * time.Second}
	credential, err := azidentity.NewClientSecretCredential(config.TenantID, config.ClientID, config.ClientSecret.Reveal(), &azidentity.ClientSecretCredentialOptions{
		ClientOptions: options,
		// Entra ID vouches for authorities that it knows. A private cloud's is not among them and, when cut off, cannot ask.
		DisableInstanceDiscovery: config.Cloud.Private || config.TenantID == adfsTenant,
	})
	if err != nil {
		return nil, fmt.Errorf("sign in as service principal %s: %w", observe.ShortID(config.ClientID), err)
	}
	return credential, nil
}

// managedIdentity signs in as an identity of the machine; id is a client ID, a resource ID, or empty for the system-assigned one.
func managedIdentity(id string, options azcore.ClientOptions) (azcore.TokenCredential, error) {
	choice := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
	switch {
	case strings.HasPrefix(id, "/"):
		choice.ID = azidentity.ResourceID(id)
	case id != "":
		choice.ID = azidentity.ClientID(id)
	}
	credential, err := azidentity.NewManagedIdentityCredential(choice)
	if err != nil {
		return nil, fmt.Errorf("sign in with a managed identity: %w", err)
	}
	return credential, nil
}
