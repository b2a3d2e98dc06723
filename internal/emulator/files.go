// The emulator's directory: persistent keys, and files for clients.

package emulator

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/podid-io/podid/internal/emulator/authority"
	"github.com/podid-io/podid/internal/emulator/entra"
	"github.com/podid-io/podid/internal/emulator/world"
)

// The files in the directory.
const (
	fileCA       = "ca.crt"               // for clients to trust
	fileCAKey    = "ca.key"               // persistent
	fileSigning  = "signing.key"          // persistent: Entra ID's key
	fileWorld    = "world.yaml"           // written once, then read; users may edit it
	fileAzure    = "azure.json"           // cloud config with the first application's secret
	fileCloud    = "azurestackcloud.json" // for AZURE_ENVIRONMENT_FILEPATH
	fileEndpoint = "endpoints.json"       // written last: the emulator is about to serve
)

// directory is an opened directory with the keys in it.
type directory struct {
	dir       string
	authority *authority.Authority
	keys      *entra.Keys
}

func (d *directory) path(name string) string { return filepath.Join(d.dir, name) }

// openDir reads the directory and its keys, and creates them if necessary.
func openDir(dir string, now time.Time) (*directory, error) {
	if dir == "" {
		return nil, errors.New("no directory given for the emulator's files; use --dir")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("emulator directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("emulator directory: %w", err)
	}
	d := &directory{dir: dir}
	if err := d.openAuthority(now); err != nil {
		return nil, err
	}
	return d, d.openKeys()
}

func (d *directory) openAuthority(now time.Time) error {
	key, err := os.ReadFile(d.path(fileCAKey))
	if err == nil {
		var cert []byte
		if cert, err = os.ReadFile(d.path(fileCA)); err != nil {
			return fmt.Errorf("read CA: %w; remove %s for a new one", err, d.path(fileCAKey))
		}
		if d.authority, err = authority.Parse(cert, key); err != nil {
			return fmt.Errorf("%w; remove %s for a new one", err, d.path(fileCAKey))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read CA key: %w", err)
	}
	if d.authority, err = authority.New(now); err != nil {
		return err
	}
	if key, err = d.authority.KeyPEM(); err != nil {
		return err
	}
	// The certificate comes first: the next start would reject a key without its certificate.
	if err := d.write(fileCA, d.authority.CertificatePEM(), 0o644); err != nil {
		return err
	}
	return d.write(fileCAKey, key, 0o600)
}

func (d *directory) openKeys() error {
	text, err := os.ReadFile(d.path(fileSigning))
	if err == nil {
		if d.keys, err = entra.ParseKeys(text); err != nil {
			return fmt.Errorf("%w; remove %s for a new one", err, d.path(fileSigning))
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read signing key: %w", err)
	}
	if d.keys, err = entra.GenerateKeys(); err != nil {
		return err
	}
	if text, err = d.keys.PEM(); err != nil {
		return err
	}
	return d.write(fileSigning, text, 0o600)
}

// world returns the given world or the one in the directory. If there is neither, it stores and
// returns the default world.
func (d *directory) world(given *world.Document) (world.Document, error) {
	if given != nil {
		return *given, nil
	}
	doc, err := world.ReadFile(d.path(fileWorld))
	if !errors.Is(err, fs.ErrNotExist) {
		return doc, err
	}
	secret := make([]byte, 16)
	_, _ = rand.Read(secret) // never fails according to crypto/rand
	doc = world.Default(hex.EncodeToString(secret))
	text, err := doc.Marshal()
	if err != nil {
		return doc, fmt.Errorf("write world: %w", err)
	}
	return doc, d.write(fileWorld, text, 0o600)
}

// write replaces a file atomically, so that readers never see a partial one.
func (d *directory) write(name string, data []byte, mode fs.FileMode) error {
	temporary := d.path(name + ".new")
	if err := os.WriteFile(temporary, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.Rename(temporary, d.path(name)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// writeClientFiles writes the files that clients need to use this Azure.
func (d *directory) writeClientFiles(w *world.World, e Endpoints) error {
	doc, err := w.Document()
	if err != nil {
		return err
	}
	for _, file := range []struct {
		name string
		body any
		mode fs.FileMode
	}{
		{fileAzure, cloudConfig(doc), 0o600},
		{fileCloud, environment(e), 0o644},
		{fileEndpoint, e, 0o644},
	} {
		data, err := json.MarshalIndent(file.body, "", "  ")
		if err != nil {
			return fmt.Errorf("write %s: %w", file.name, err)
		}
		if err := d.write(file.name, append(data, '\n'), file.mode); err != nil {
			return err
		}
	}
	return nil
}

// cloudConfig returns an azure.json like that of Azure's Kubernetes nodes, for the first
// application with a secret, or for a managed identity if there is none.
func cloudConfig(doc world.Document) map[string]any {
	config := map[string]any{
		"cloud": "AzureStackCloud", "tenantId": doc.Tenants[0].ID, "subscriptionId": doc.Subscriptions[0].ID,
		"location": doc.Location, "vmType": "standard", "useManagedIdentityExtension": true,
		"userAssignedIdentityID": "", "aadClientId": "msi", "aadClientSecret": "msi",
	}
	for _, m := range doc.VirtualMachines {
		config["resourceGroup"] = m.ResourceGroup
	}
	for _, m := range doc.ScaleSets {
		config["resourceGroup"], config["vmType"] = m.ResourceGroup, "vmss"
	}
	for _, a := range doc.Applications {
		if a.Secret != "" {
			config["tenantId"], config["aadClientId"], config["aadClientSecret"] = a.TenantID, a.ClientID, a.Secret
			config["useManagedIdentityExtension"] = false
			break
		}
	}
	return config
}

// environment describes this cloud in the format that go-autorest reads from
// AZURE_ENVIRONMENT_FILEPATH. Services that are not emulated get names that do not resolve.
func environment(e Endpoints) map[string]any {
	arm, login, nowhere := e.ARM+"/", e.Entra+"/", "https://emulated.invalid/"
	return map[string]any{
		"name": "AzureStackCloud", "managementPortalURL": nowhere, "publishSettingsURL": nowhere,
		"serviceManagementEndpoint": arm, "resourceManagerEndpoint": arm, "activeDirectoryEndpoint": login,
		"galleryEndpoint": nowhere, "keyVaultEndpoint": nowhere, "managedHSMEndpoint": nowhere, "graphEndpoint": login,
		"serviceBusEndpoint": nowhere, "batchManagementEndpoint": nowhere, "microsoftGraphEndpoint": login,
		"storageEndpointSuffix": "storage.emulated.invalid", "cosmosDBDNSSuffix": "cosmos.emulated.invalid",
		"keyVaultDNSSuffix": "vault.emulated.invalid", "containerRegistryDNSSuffix": "azurecr.emulated.invalid",
		"resourceManagerVMDNSSuffix": "cloudapp.emulated.invalid", "tokenAudience": arm,
		"resourceIdentifiers": map[string]string{
			"graph": login, "keyVault": "https://vault.emulated.invalid", "datalake": nowhere, "batch": nowhere,
			"operationalInsights": nowhere, "storage": "https://storage.emulated.invalid/", "synapse": nowhere,
			"serviceBus": nowhere, "sqlDatabase": nowhere, "cosmosDB": nowhere, "managedHSM": nowhere, "microsoftGraph": login,
		},
	}
}
