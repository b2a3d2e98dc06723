package azure

// How podid itself signs in to Azure, following the cloud config when it changes.

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/go-logr/logr"

	"github.com/podid-io/podid/internal/observe"
)

// CredentialOptions is what a Credential needs besides its first Config.
type CredentialOptions struct {
	// Path and Getenv are those that Load was called with; nil is os.Getenv. With an empty Path
	// nothing is re-read: an environment does not change.
	Path   string
	Getenv func(string) string
	// Log gets one message for every change of the file, with the reason if the new one is not
	// used.
	Log logr.Logger
	// Transport carries the requests to Entra ID or the metadata service. With nil, requests to
	// Entra ID use the SDK's own, which follows HTTPS_PROXY, and requests to the metadata service
	// use no proxy.
	Transport policy.Transporter
}

// Credential is podid's own credential. It looks at the file before every token (one stat call;
// tokens are cached by the SDK, so that is rare) and signs in again when the file has changed, as
// it does when a service principal's secret is rotated. A new file that is broken, or that names
// another cloud, is reported once and the last good one stays in use.
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
	if options.Getenv == nil {
		options.Getenv = os.Getenv
	}
	inner, err := signIn(config, options.Transport)
	if err != nil {
		return nil, err
	}
	// Not the stamp of now: the file may have changed since Load. The first token compares.
	return &Credential{options: options, config: config, inner: inner}, nil
}

// GetToken is azcore.TokenCredential.
func (c *Credential) GetToken(ctx context.Context, request policy.TokenRequestOptions) (azcore.AccessToken, error) {
	inner, config := c.current()
	token, err := inner.GetToken(ctx, request)
	if err != nil {
		return azcore.AccessToken{}, config.explain(ctx, err)
	}
	return token, nil
}

// current returns the credential of the newest good config.
func (c *Credential) current() (azcore.TokenCredential, Config) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.options.Path == "" {
		return c.inner, c.config
	}
	if now := stampOf(c.options.Path); now != c.seen {
		c.seen = now
		if err := c.reload(); err != nil {
			c.options.Log.Error(err, "the cloud config changed and cannot be used; signing in with the last good one")
		}
	}
	return c.inner, c.config
}

// reload reads the file again and swaps the credential if the config really differs; an equal one
// keeps its tokens.
func (c *Credential) reload() error {
	config, err := Load(c.options.Path, c.options.Getenv)
	if err != nil {
		return err
	}
	if config.equal(c.config) {
		return nil
	}
	if config.Cloud != c.config.Cloud {
		return fmt.Errorf("read cloud config %s: the cloud changed from %s to %s, or its endpoints did: restart to move there",
			c.options.Path, c.config.Cloud.Name, config.Cloud.Name)
	}
	inner, err := signIn(config, c.options.Transport)
	if err != nil {
		return err
	}
	c.config, c.inner = config, inner
	c.options.Log.Info("the cloud config changed; signing in anew", "path", c.options.Path,
		"clientID", observe.ShortID(config.ClientID), "managedIdentity", config.ManagedIdentity)
	return nil
}

// equal compares what the credential depends on.
func (c Config) equal(other Config) bool {
	return c.Cloud == other.Cloud && c.TenantID == other.TenantID && c.ClientID == other.ClientID &&
		c.ClientSecret.Equal(other.ClientSecret) && c.ManagedIdentity == other.ManagedIdentity &&
		c.UserAssignedIdentityID == other.UserAssignedIdentityID
}

// stamp identifies a state of a file. A mounted secret changes by a symbolic link being swapped,
// which gives another inode; an editor may keep the inode and the size.
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
